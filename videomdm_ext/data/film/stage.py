"""Where and how a clip is filmed, drawn with the clip's own generator, and the pictures of it.

Person, clothes, room, light and camera are drawn at random; the pictures come from OpenGL without screen or GPU
(moderngl and Mesa; extra `film`).
"""

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.errors import VideoMDMError
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.motion.human_mesh import SEGMENTS, Body

Numbers = NDArray[np.float32]

VERTEX = """
#version 330
uniform mat4 view; uniform mat4 flatten;
in vec3 position; in vec3 normal; in vec3 colour;
out vec3 at; out vec3 across; out vec3 paint;
void main() {
    vec4 place = flatten * vec4(position, 1.0);
    at = place.xyz; across = normal; paint = colour;
    gl_Position = view * place;
}
"""
FRAGMENT = """
#version 330
uniform vec3 light; uniform vec3 lamp; uniform vec3 ambient; uniform vec3 pattern; uniform bool shadow;
in vec3 at; in vec3 across; in vec3 paint;
out vec4 seen;
float hash(vec3 p) { return fract(sin(dot(floor(p), vec3(12.9898, 78.233, 37.719))) * 43758.5453); }
float noise(vec3 p) {
    vec3 f = fract(p), u = f * f * (3.0 - 2.0 * f); float total = 0.0;
    for (int k = 0; k < 8; k++) {
        vec3 corner = vec3(k & 1, (k >> 1) & 1, k >> 2), w = mix(1.0 - u, u, corner);
        total += w.x * w.y * w.z * hash(p + corner);
    }
    return total;
}
void main() {
    if (shadow) { seen = vec4(0.0, 0.0, 0.0, 0.45); return; }
    vec3 n = normalize(across), p = at / pattern.y;
    float mark = 0.0;
    if (pattern.x == 1.0) mark = mod(floor(p.x + 1e-3) + floor(p.y + 1e-3) + floor(p.z + 1e-3), 2.0);
    if (pattern.x == 2.0) mark = step(0.5, fract(p.x + p.z));
    if (pattern.x == 3.0) mark = 0.5 * noise(p) + 0.3 * noise(3.1 * p) + 0.2 * noise(9.7 * p);
    if (pattern.x == 4.0) mark = fract(0.5 * p.y);
    vec3 base = paint * (1.0 - pattern.z * mark);
    float up = 0.5 + 0.5 * n.y;
    seen = vec4(base * (ambient * (0.6 + 0.4 * up) + lamp * max(dot(n, light), 0.0)), 1.0);
}
"""


class Solid(NamedTuple):
    """Triangles [F, 3, 3] with normals and colours of the same shape, and a pattern: kind, size in m, strength."""

    triangles: Numbers
    normals: Numbers
    colours: Numbers
    pattern: tuple[float, float, float]


class Light(NamedTuple):
    """Direction to the lamp, its colour and the ambient one; components from 0 to about 1."""

    direction: tuple[float, float, float]
    lamp: tuple[float, float, float]
    ambient: tuple[float, float, float]


def require_moderngl() -> Any:
    """The package, with a context that works; VideoMDMError says what to install."""
    try:
        moderngl = importlib.import_module("moderngl")
        os.environ.setdefault("LP_NUM_THREADS", "1")  # one process a core is quicker
        return moderngl, moderngl.create_context(standalone=True, require=330, backend="egl")
    except Exception as error:
        raise VideoMDMError(
            f"film: expected moderngl with an OpenGL that draws without a screen, found none that works ({error}). "
            'Install the extras: pip install -e ".[video,film]" -c constraints.txt; on Debian also libegl1 and '
            "libgl1-mesa-dri"
        ) from error


class Stage:
    """Draws one room of `solids` in one light, `size` (width, height) pixels, with a person of given faces in it."""

    def __init__(self, size: tuple[int, int], solids: Sequence[Solid], light: Light, faces: Numbers, colours: Numbers):
        self.gl, self.context = require_moderngl()
        context = self.context  # to be released by who is done with the stage
        context.enable(self.gl.DEPTH_TEST)
        self.program = context.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        direction = np.asarray(light.direction, np.float32)
        self.direction = direction / np.linalg.norm(direction)
        self.program["light"].value = tuple(map(float, self.direction))
        self.program["lamp"].value, self.program["ambient"].value = light.lamp, light.ambient
        self.size = size
        self.frame = context.framebuffer(context.renderbuffer(size), context.depth_renderbuffer(size))
        names = ("position", "normal", "colour")
        self.solids = []
        for solid in solids:
            packed = np.concatenate([solid.triangles, solid.normals, solid.colours], -1).astype("f4")
            array = context.vertex_array(self.program, [(context.buffer(packed.tobytes()), "3f 3f 3f", *names)])
            self.solids.append((array, solid.pattern))
        self.moving = context.buffer(reserve=len(colours) * 24)
        self.person = context.vertex_array(
            self.program,
            [
                (self.moving, "3f 3f", *names[:2]),
                (context.buffer(np.ascontiguousarray(colours, "f4").tobytes()), "3f", names[2]),
            ],
            context.buffer(np.ascontiguousarray(faces, "i4").tobytes()),
        )

    def picture(self, vertices: Numbers, normals: Numbers, extrinsics: Numbers, focal: float) -> NDArray[np.uint8]:
        """[height, width, 3] of the person's vertices [V, 3], seen by the camera [3, 4] (x right, y down, z ahead).

        `focal` is the focal length in pixels, the principal point the middle of the picture.
        """
        self.moving.write(np.concatenate([vertices, normals], -1).astype("f4").tobytes())
        self.frame.use()
        self.context.clear(0.5, 0.5, 0.5)
        program = self.program
        program["view"].write(np.ascontiguousarray(_view(extrinsics, focal, self.size).T, "f4").tobytes())
        same = np.eye(4, dtype="f4").tobytes()
        program["flatten"].write(same)
        program["shadow"].value = False
        for array, pattern in self.solids:
            program["pattern"].value = pattern
            array.render()
        program["pattern"].value = (0.0, 1.0, 0.0)
        self.person.render()
        self._shadow()
        width, height = self.size
        data = np.frombuffer(self.frame.read(components=3, alignment=1), np.uint8)
        return data.reshape(height, width, 3)[::-1]

    def _shadow(self) -> None:
        """The person once more, flattened onto the floor along the light; each pixel darkens once."""
        x, _, z = self.direction / max(self.direction[1], 0.3)
        onto = np.eye(4)
        onto[0, 1], onto[1, 1], onto[2, 1], onto[1, 3] = -x, 0.0, -z, 0.004
        self.program["flatten"].write(np.ascontiguousarray(onto.T, "f4").tobytes())
        self.program["shadow"].value = True
        self.context.enable(self.gl.BLEND)
        self.context.depth_func = "<"
        self.person.render()
        self.context.disable(self.gl.BLEND)


def _view(extrinsics: Numbers, focal: float, size: tuple[int, int]) -> NDArray[np.float64]:
    """The 4 x 4 matrix from the world to OpenGL's clip space of a pinhole camera."""
    near, far = 0.1, 60.0
    camera = np.eye(4)
    camera[:3] = extrinsics
    lens = np.zeros((4, 4))
    lens[0, 0], lens[1, 1] = 2 * focal / size[0], -2 * focal / size[1]
    lens[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
    lens[3, 2] = 1.0
    return np.asarray(lens @ camera)


T = TypeVar("T")
RATES = (20.0, 24.0, 25.0, 30.0)
"""Frames per second of films."""
MARGIN = 0.46
"""Of the picture's width and height on either side of its middle: where all joints stay."""
ROOM = 7.0
"""Metres from the middle of the motion to the walls, beside the motion's own extent."""
SHAPES = ("gender", "age", "muscle", "weight", "height", "proportions")
SKIN = ((0.86, 0.68, 0.56), (0.77, 0.58, 0.46), (0.55, 0.38, 0.28), (0.36, 0.25, 0.19))
HAIR = ((0.16, 0.11, 0.08), (0.35, 0.24, 0.13), (0.66, 0.54, 0.34), (0.45, 0.44, 0.43))
SLEEVES = ("upper_arm", "forearm")
LEGS = ("thigh", "shin")


class Draw:
    """Numbers and choices from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def number(self, low: float, high: float) -> float:
        """Uniform from low to high."""
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def among(self, things: Sequence[T]) -> T:
        """One of these."""
        return things[int(torch.randint(len(things), (), generator=self.generator))]

    def chance(self, share: float) -> bool:
        """Whether something of this probability happens."""
        return self.number(0.0, 1.0) < share

    def colour(self, low: float = 0.05, high: float = 0.9) -> NDArray[np.float32]:
        """Red, green and blue."""
        return np.array([self.number(low, high) for _ in range(3)], np.float32)


@dataclass(frozen=True)
class Camera:
    """What filmed: extrinsics [T, 3, 4] for every frame of the film, the focal length in pixels, whether it moved."""

    extrinsics: Tensor
    focal: float
    moves: bool


def draw_shape(draw: Draw) -> Mapping[str, float]:
    """A grown person's phenotypes."""
    ranges = {"gender": (0.0, 1.0), "age": (0.45, 0.75), "muscle": (0.3, 0.8), "weight": (0.3, 0.75)}
    return {name: draw.number(*ranges.get(name, (0.35, 0.65))) for name in SHAPES}


def draw_camera(
    positions: Tensor, size: tuple[int, int], height: tuple[float, float], draw: Draw, *, moving: float = 0.25
) -> Camera:
    """A camera on an orbit about the motion [T, 22, 3], level, which sees all joints in every frame.

    The person is `height` pixels tall, from least to most, or less where the motion would leave the picture. A share
    `moving` of the cameras goes slowly round, up or down, and keeps the person in view.
    """
    focal = draw.number(0.7, 1.2) * max(size)
    tall = float((positions[..., 1].amax(-1) - positions[..., 1].amin(-1)).median().clamp_min(1.0))
    pixels = math.exp(draw.number(math.log(height[0]), math.log(height[1])))
    distance = focal * tall / pixels
    azimuth, elevation = draw.number(-math.pi, math.pi), math.radians(draw.number(-3.0, 22.0))
    moves = draw.chance(moving)
    swing = math.radians(draw.number(8.0, 25.0)) * draw.among((-1.0, 1.0)) if moves else 0.0
    rise = math.radians(draw.number(-4.0, 4.0)) if moves else 0.0
    corners = positions.reshape(-1, 3)
    middle = (corners.amin(0) + corners.amax(0)) / 2.0
    aim = positions[:, 0] + (middle - positions[:, 0]) * (0.5 if moves else 1.0)
    if moves:  # smoothed over about a second, as a hand follows
        kernel = torch.hann_window(31, periodic=False)[1:-1]
        padded = torch.nn.functional.pad(aim.T.unsqueeze(1), (14, 14), mode="replicate")
        aim = torch.nn.functional.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).squeeze(1).T
    way = torch.linspace(0.0, 1.0, len(positions))
    way = way * way * (3.0 - 2.0 * way)
    for _ in range(60):
        extrinsics = _looking(aim, azimuth + swing * way, elevation + rise * way, distance)
        seen = to_camera(positions, extrinsics)
        depth = seen[..., 2]
        inside = (seen[..., :2].abs() / depth.clamp_min(0.1).unsqueeze(-1)).amax((0, 1)) * focal
        if bool((depth > 1.0).all()) and inside[0] < MARGIN * size[0] and inside[1] < MARGIN * size[1]:
            break
        distance *= 1.06
    return Camera(extrinsics, focal, moves)


def _looking(aim: Tensor, azimuth: Tensor, elevation: Tensor, distance: float) -> Tensor:
    """Extrinsics [T, 3, 4] of cameras at a distance from points [T, 3] that they look at, the horizon level."""
    level = elevation.cos()
    away = torch.stack((level * azimuth.sin(), elevation.sin(), level * azimuth.cos()), -1)
    place = aim + distance * away
    place = torch.cat((place[:, :1], place[:, 1:2].clamp_min(0.25), place[:, 2:]), -1)
    ahead = torch.nn.functional.normalize(aim - place, dim=-1)
    down = torch.tensor((0.0, -1.0, 0.0)).expand_as(ahead)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, ahead), dim=-1)
    rotation = torch.stack((right, torch.linalg.cross(ahead, right), ahead), 1)
    return torch.cat((rotation, -rotation @ place.unsqueeze(-1)), -1)


def draw_clothes(body: Body, draw: Draw) -> Numbers:
    """A colour of every vertex, [V, 3]: skin, hair, shirt, trousers and shoes, long or short, plain or striped."""
    names = [name.removeprefix("l_").removeprefix("r_") for name in SEGMENTS]
    parts = np.array(names)[body.parts]
    skin, shirt, trousers = np.array(draw.among(SKIN), np.float32), draw.colour(), draw.colour(0.05, 0.6)
    colours = np.tile(skin, (len(parts), 1))
    colours[np.isin(parts, ("abdomen", "waist", "chest", "shoulder", *SLEEVES[: draw.among((0, 1, 2))]))] = shirt
    if draw.chance(0.3):
        stripe = (body.vertices[:, 1].numpy() * draw.number(8.0, 20.0)) % 1.0 < 0.5
        colours[stripe & (colours == shirt).all(-1)] = draw.colour()
    colours[np.isin(parts, ("pelvis", *LEGS[: draw.among((1, 2, 2))]))] = trousers
    colours[parts == "foot"] = draw.colour(0.05, 0.4)
    head = parts == "head"
    _, y, z = body.vertices.numpy().T
    top, back = y[head].max(), z[head].mean() - 0.01
    colours[head & ((y > top - 0.075) | ((z < back) & (y > top - 0.2)))] = draw.among(HAIR)
    return colours


def draw_light(draw: Draw) -> Light:
    """A lamp or a sun from above, warm or cold, soft or hard."""
    azimuth, elevation = draw.number(-math.pi, math.pi), math.radians(draw.number(30.0, 80.0))
    level = math.cos(elevation)
    direction = (level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth))
    warm, soft = draw.number(-0.12, 0.12), draw.number(0.35, 0.75)
    tint = np.array((1.0 + warm, 1.0, 1.0 - warm))
    strength = draw.number(0.85, 1.25)
    lamp, ambient = strength * (1.05 - soft) * tint, strength * soft * tint[::-1]
    return Light(direction, tuple(lamp.tolist()), tuple(ambient.tolist()))


def draw_room(positions: Tensor, camera: Camera, draw: Draw) -> list[Solid]:
    """Floor, walls, sky and furniture; boxes stand clear of the motion, at times one between it and the camera."""
    flat = positions[..., (0, 2)].reshape(-1, 2)
    low, high = flat.amin(0), flat.amax(0)
    place = -(camera.extrinsics[:, :, :3].mT @ camera.extrinsics[:, :, 3:]).squeeze(-1)
    ground = torch.cat((low.unsqueeze(0), high.unsqueeze(0), place[:, (0, 2)]))
    near, far = ground.amin(0) - draw.number(1.0, ROOM), ground.amax(0) + draw.number(1.0, ROOM)
    tall = max(draw.number(2.6, 5.0), float(place[:, 1].amax()) + 0.5)
    (x0, z0), (x1, z1) = near.tolist(), far.tolist()
    solids = [_box((x0, -0.2, z0), (x1, 0.0, z1), draw.colour(0.2, 0.85), _pattern(draw))]
    wall, texture = draw.colour(0.35, 0.95), _pattern(draw, plain=0.5)
    for one, other in (
        ((x0 - 0.2, 0.0, z0), (x0, tall, z1)),
        ((x1, 0.0, z0), (x1 + 0.2, tall, z1)),
        ((x0, 0.0, z0 - 0.2), (x1, tall, z0)),
        ((x0, 0.0, z1), (x1, tall, z1 + 0.2)),
    ):
        solids.append(_box(one, other, wall * draw.number(0.85, 1.0), texture))
    solids.append(_box((x0, tall, z0), (x1, tall + 0.2, z1), draw.colour(0.6, 1.0), (0.0, 1.0, 0.0)))
    track = positions[:, :, (0, 2)].reshape(-1, 2)
    for number in range(draw.among((1, 2, 3, 4, 5))):
        width, depth, height = draw.number(0.3, 1.4), draw.number(0.3, 0.9), draw.number(0.3, 1.9)
        at = torch.tensor((draw.number(x0 + 1.0, x1 - 1.0), draw.number(z0 + 1.0, z1 - 1.0)))
        if number == 0 and draw.chance(0.35):  # before the person, low
            eye, middle = place[len(place) // 2, (0, 2)], (low + high) / 2.0
            at, height = eye + (middle - eye) * draw.number(0.45, 0.75), draw.number(0.25, 0.6)
        half = torch.tensor((width, depth)) / 2.0
        apart = ((track - at).abs() - half).amax(-1).amin()
        clear = ((place[:, (0, 2)] - at).abs() - half).amax(-1).amin()
        if float(apart) > 0.35 and float(clear) > 0.6:
            (a, c), (b, d) = (at - half).tolist(), (at + half).tolist()
            solids.append(_box((a, 0.0, c), (b, height, d), draw.colour(), _pattern(draw, plain=0.4)))
    return solids


def _pattern(draw: Draw, plain: float = 0.2) -> tuple[float, float, float]:
    """Kind, size in metres and strength."""
    kind = 0.0 if draw.chance(plain) else draw.among((1.0, 2.0, 3.0, 3.0, 4.0))
    return kind, draw.number(0.15, 1.2), draw.number(0.08, 0.6)


def _box(low: Sequence[float], high: Sequence[float], colour: Numbers, pattern: tuple[float, float, float]) -> Solid:
    """Twelve triangles between two corners, normals outward."""
    ends = np.array((low, high), np.float32)
    triangles, normals = [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for side in (0, 1):
            corners = np.empty((4, 3), np.float32)
            corners[:, axis] = ends[side, axis]
            corners[:, u], corners[:, v] = ends[(0, 1, 1, 0), u], ends[(0, 0, 1, 1), v]
            triangles += [corners[[0, 1, 2]], corners[[0, 2, 3]]]
            normals += [np.eye(3, dtype=np.float32)[axis] * (2 * side - 1)] * 2
    faces = np.stack(triangles)
    colours = np.broadcast_to(colour, faces.shape)
    if pattern[0] == 0.0 and float(np.ptp(ends[:, 1])) > 2.0:  # darker towards the floor
        colours = colour * (0.7 + 0.3 * faces[..., 1:2] / max(float(faces[..., 1].max()), 1e-3))
    return Solid(faces, np.repeat(np.stack(normals)[:, None], 3, 1), colours.astype(np.float32), pattern)
