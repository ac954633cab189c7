# SPDX-License-Identifier: Apache-2.0
"""Cameras of a cameras.xml: which of them have a pose, and their poses in the chunk's world space.

A camera has a transform of its own, or, as slave of a rig, a master's and its sensor's place in the rig. The transform
of its component, else that of the chunk, takes it to world space.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from npcr.camera_paths import orthonormal_pose
from npcr.command_names import as_typed
from npcr.errors import NpcrError, SceneError
from npcr.importers.metashape.document import by_id, is_true, read_matrix, read_similarity
from npcr.importers.metashape.sensors import Sensor

logger = logging.getLogger("npcr")


@dataclass(frozen=True)
class MetashapeCamera:
    """A camera of a cameras.xml as it stands there."""

    element: Element
    label: str  # mostly its photograph's name
    path: str | None  # of its photograph, where the file has it
    group: str | None  # label of the group that it lies in
    component: str | None  # id

    @property
    def id(self) -> str:
        """Its number in the file."""
        return self.element.get("id", "")

    @property
    def master(self) -> str | None:
        """Id of the camera that leads it, where it is a slave in a rig."""
        master = self.element.get("master_id")
        return master if master != self.id else None


class MetashapeChunk:
    """The cameras of a chunk.

    Args:
        element: the chunk.
        file: for messages.

    Raises:
        SceneError: ids are missing or not unique.
    """

    def __init__(self, element: Element, file: Path) -> None:
        self._element = element
        self._file = file
        self._sensors = {key: Sensor(sensor, file) for key, sensor in
                         by_id(list(element.iter("sensor")), file).items()}
        self._components = by_id(list(element.iter("component")), file)
        self.cameras = _read_cameras(element, file)
        self._by_id = {camera.id: camera for camera in self.cameras}

    def sensor(self, camera: MetashapeCamera) -> Sensor:
        """Find the sensor of a camera.

        Args:
            camera: one of `cameras`.

        Returns:
            The sensor.

        Raises:
            SceneError: there is no such sensor.
        """
        key = camera.element.get("sensor_id")
        if key is None or key not in self._sensors:
            raise SceneError(f"{self._file}, {camera.label}: sensor_id is {key!r}; no such sensor")
        return self._sensors[key]

    def usable_poses(self, chunk_space: bool) -> dict[str, NDArray[np.float64]]:
        """Find the cameras that can be used; how many others there are, and why, is said.

        Args:
            chunk_space: whether poses stay within the chunk instead of going to world space.

        Returns:
            {camera's id: (4, 4) pose}, in the file's order.

        Raises:
            SceneError: something is malformed.
        """
        enabled = [c for c in self.cameras if is_true(c.element.get("enabled", "true"))]
        self._say_left_out("disabled", [c for c in self.cameras if c not in enabled])
        poses = {c.id: pose for c in enabled if (pose := self._pose(c, ())) is not None}
        self._say_left_out("not aligned", [c for c in enabled if c.id not in poses])
        usable = [c for c in enabled if c.id in poses]
        other_bands = [c for c in usable if self._shows_other_bands(c)]
        self._say_left_out("of other bands than their master (multispectral)", other_bands)
        usable = [c for c in usable if c not in other_bands]
        self._say_slaves([c for c in usable if c.element.find("transform") is None])
        self._say_rolling_shutter(usable)
        usable = self._connected(usable, chunk_space)
        return {c.id: self._to_world(c, poses[c.id], chunk_space) for c in usable}

    def _pose(self, camera: MetashapeCamera, followers: tuple[str, ...]) -> NDArray[np.float64] | None:
        """The camera's pose in its component; None where it, or its master, is not aligned."""
        place = f"{self._file}, {camera.label}"
        transform = camera.element.find("transform")
        if transform is not None:
            return _orthonormal(read_matrix(transform.text, f"{place}: transform"), f"{place}: transform")
        if camera.master is None:
            return None
        if camera.id in followers or camera.master not in self._by_id:
            raise SceneError(f"{place}: master_id is {camera.master!r}; "
                             + ("it follows itself" if camera.id in followers else "no such camera"))
        master = self._by_id[camera.master]
        pose = self._pose(master, (*followers, camera.id))
        if pose is None:
            return None
        sensor, leading = self.sensor(camera), self.sensor(master)
        if sensor.master != leading.master:
            raise SceneError(f"{place}: is a slave of {master.label!r}, but sensor {sensor.id} has no place in the rig "
                             f"of sensor {leading.id} (its master_id is not {leading.master}); disable the camera in "
                             "Metashape, or export a pose of its own for it")
        return pose @ np.linalg.inv(leading.offset) @ sensor.offset

    def _shows_other_bands(self, camera: MetashapeCamera) -> bool:
        if camera.master is None or camera.master not in self._by_id:
            return False
        own, leading = self.sensor(camera).bands, self.sensor(self._by_id[camera.master]).bands
        return bool(own and leading) and own != leading

    def _component(self, camera: MetashapeCamera) -> str | None:
        """Id of a camera's component; a slave's is its master's."""
        seen = {camera.id}
        while camera.component is None and camera.master in self._by_id and camera.master not in seen:
            camera = self._by_id[camera.master]
            seen.add(camera.id)
        key = camera.component
        if key is not None and self._components and key not in self._components:
            raise SceneError(f"{self._file}, {camera.label}: component_id is {key!r}; no such component")
        return key if key in self._components else None

    def _transform(self, component: str | None) -> Element | None:
        """The transform of a component, where it has one."""
        return None if component is None else self._components[component].find("transform")

    def _connected(self, cameras: list[MetashapeCamera], chunk_space: bool) -> list[MetashapeCamera]:
        """Those that stand in one coordinate frame: all, or those of the largest component."""
        counts = Counter(self._component(camera) for camera in cameras)
        if len(counts) < 2:
            return cameras
        names = {key: "none" if key is None else self._components[key].get("label") or f"component {key}"
                 for key in counts}
        listed = ", ".join(f"{names[key]}: {count}" for key, count in counts.items())
        if not chunk_space and all(self._transform(key) is not None for key in counts):
            logger.warning("%s: the %d cameras lie in %d components (%s), which Metashape could not connect; only "
                           "the components' transforms place them to each other", self._file, len(cameras),
                           len(counts), listed)
            return cameras
        largest = max(counts, key=lambda key: counts[key])
        logger.warning("%s: the %d cameras lie in %d components (%s), which are not registered to each other; those "
                       "of %s are used. Disable its cameras in Metashape to use another", self._file, len(cameras),
                       len(counts), listed, names[largest])
        kept = [camera for camera in cameras if self._component(camera) == largest]
        self._say_left_out("in other components", [camera for camera in cameras if camera not in kept])
        return kept

    def _to_world(self, camera: MetashapeCamera, pose: NDArray[np.float64],
                  chunk_space: bool) -> NDArray[np.float64]:
        if chunk_space:
            return pose
        own = self._transform(self._component(camera))
        to_world = read_similarity(own if own is not None else self._element.find("transform"),
                                   f"{self._file}, transform of the chunk or component")
        result = to_world @ pose
        result[:3, :3] /= max(np.cbrt(abs(np.linalg.det(to_world[:3, :3]))), 1e-30)
        return _orthonormal(result, f"{self._file}, {camera.label}: transform")

    def _say_left_out(self, why: str, cameras: Sequence[MetashapeCamera]) -> None:
        if cameras:
            logger.warning("%s: %d of %d cameras are %s and left out, first %s", self._file, len(cameras),
                           len(self.cameras), why, cameras[0].label)

    def _say_slaves(self, cameras: Sequence[MetashapeCamera]) -> None:
        if cameras:
            logger.warning("%s: %d of %d cameras have no transform of their own and are placed by their master's and "
                           "their sensor's rotation and translation (from its axes to the master's, in units of the "
                           "chunk), first %s; %s shows whether they fit", self._file, len(cameras),
                           len(self.cameras), cameras[0].label, as_typed("npcr check"))

    def _say_rolling_shutter(self, cameras: Sequence[MetashapeCamera]) -> None:
        found = [c for c in cameras if c.element.find("rolling_shutter") is not None
                 or self.sensor(c).has_rolling_shutter]
        if found:
            logger.warning("%s: %d of %d cameras have a rolling shutter compensated in Metashape, first %s; their "
                           "movement while rows are read is left out, one pose is used for the whole photograph",
                           self._file, len(found), len(self.cameras), found[0].label)


def _orthonormal(pose: NDArray[np.float64], place: str) -> NDArray[np.float64]:
    """The pose without the scale that some programs leave in its axes; it does not change where a camera looks."""
    pose = pose.copy()
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    if lengths.min() > 0 and np.ptp(lengths) < 1e-3 * lengths.max():
        pose[:3, :3] /= lengths.mean()
    if np.linalg.det(pose[:3, :3]) < 0:
        raise SceneError(f"{place}: its axes are left-handed (mirrored), and a camera's are right-handed: x right, y "
                         "down, z forward; one row or column has the wrong sign. Export the cameras from Metashape "
                         "again")
    try:
        return orthonormal_pose(pose)
    except NpcrError as error:
        raise SceneError(f"{place}: {error}; its first three columns must be perpendicular and of one length. Export "
                         "the cameras from Metashape again, or disable this one") from None


def _read_cameras(chunk: Element, file: Path) -> list[MetashapeCamera]:
    """All cameras of the chunk, with their groups; cameras of <frames> only add paths of photographs."""
    frames = list(chunk.findall("frames/frame"))
    if len(frames) > 1:
        logger.warning("%s: has %d frames; the photographs of the first are used", file, len(frames))
    inner = {camera for frame in frames for camera in frame.iter("camera")}
    paths = {camera.get("camera_id"): photo.get("path") for frame in frames[:1] for camera in frame.iter("camera")
             if (photo := camera.find("photo")) is not None}
    groups = {camera: group.get("label") for group in chunk.iter("group") for camera in group.iter("camera")}
    components = {number: component.get("id") for component in chunk.iter("component")
                  for listed in component.iter("camera_ids") for number in (listed.text or "").split()}
    cameras = []
    for number, element in by_id([e for e in chunk.iter("camera") if e not in inner], file).items():
        photo = element.find("photo")
        cameras.append(MetashapeCamera(
            element, element.get("label") or f"camera {number}",
            photo.get("path") if photo is not None else paths.get(number), groups.get(element),
            element.get("component_id", components.get(number))))
    return cameras
