"""Pictures of a room and a person in it, drawn by OpenGL without screen or GPU (moderngl and Mesa; extra `film`)."""

import importlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.errors import VideoMDMError

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
