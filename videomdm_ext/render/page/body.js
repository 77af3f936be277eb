// A human mesh on a motion: one mesh for the page, bent by every track's own joints and turns.
const Bodies = (() => {
  "use strict";
  const INFLUENCES = 4, LIFT = 0.004;

  function whole(text, kind) {
    return new kind(Motion.bytes(text).buffer);
  }

  // The mesh that the page brings along, or null: rest places, joints and weights of its vertices, colours.
  function unpack(stored) {
    if (!stored) return null;
    const places = whole(stored.vertices, Int16Array), weights = Motion.bytes(stored.weights);
    const geometry = new THREE.BufferGeometry();
    const vertices = Float32Array.from(places, (place) => place * stored.unit);
    geometry.setAttribute("position", new THREE.BufferAttribute(vertices, 3));
    geometry.setIndex(new THREE.BufferAttribute(whole(stored.faces, Uint16Array), 1));
    geometry.computeVertexNormals();
    const count = vertices.length / 3, colours = new Float32Array(3 * count);
    Motion.bytes(stored.regions).forEach((region, at) => colours.set(stored.colours[region], 3 * at));
    return { ...stored, count, vertices, normals: geometry.attributes.normal.array, index: geometry.index,
      joints: Motion.bytes(stored.joints), weights: Float32Array.from(weights, (weight) => weight / 255),
      rest: Motion.floats(stored.rest), colours };
  }

  // { mesh, shade, move(pose, frame) } of a track, null where it has no turns.
  function make(body, stored, track) {
    if (!body || !stored.turns) return null;
    const { count, joints, weights, vertices, normals, rest } = body, rigs = rest.length / 3;
    const turns = whole(stored.turns, Int16Array), twists = Motion.floats(stored.twists), shape = Motion.floats(stored.shape);
    const geometry = new THREE.BufferGeometry();
    const points = new Float32Array(3 * count), across = new Float32Array(3 * count);
    geometry.setAttribute("position", new THREE.BufferAttribute(points, 3));
    geometry.setAttribute("normal", new THREE.BufferAttribute(across, 3));
    geometry.setAttribute("color", new THREE.BufferAttribute(body.colours, 3));
    geometry.setIndex(body.index);
    const skin = new THREE.MeshLambertMaterial({ vertexColors: true }), dark = new THREE.MeshBasicMaterial();
    const mesh = new THREE.Mesh(geometry, skin), shade = new THREE.Mesh(geometry, dark);
    mesh.frustumCulled = shade.frustumCulled = false;
    shade.scale.y = 1e-4;
    shade.position.y = LIFT;
    // Every vertex as each of its joints has it at rest, in the track's own size.
    const own = new Float32Array(3 * INFLUENCES * count);
    for (let at = 0; at < INFLUENCES * count; at++) {
      const joint = joints[at], vertex = 3 * Math.floor(at / INFLUENCES), map = 12 * joint;
      for (let row = 0; row < 3; row++) {
        let sum = shape[map + 4 * row + 3];
        for (let k = 0; k < 3; k++) sum += shape[map + 4 * row + k] * (vertices[vertex + k] - rest[3 * joint + k]);
        own[3 * at + row] = sum;
      }
    }
    const turned = Array.from({ length: rigs }, () => new THREE.Quaternion());
    const places = Array.from({ length: rigs }, () => new THREE.Vector3());
    const rows = new Float32Array(9 * rigs), matrix = new THREE.Matrix4(), part = new THREE.Quaternion();
    const after = new THREE.Quaternion(), axis = new THREE.Vector3(), end = new THREE.Vector3();

    function turn(frame, joint, into) {
      const size = body.rig.length, last = track.count - 1, from = Math.min(Math.floor(frame), last);
      const read = (at, found) => found.fromArray(turns, 4 * (size * at + joint)).normalize();
      return read(from, into).slerp(read(Math.min(from + 1, last), after), Math.min(frame, last) - from);
    }

    function pose(joint, frame) {
      body.rig.forEach((rig, at) => { turn(frame, at, turned[rig]); places[rig].fromArray(joint, 3 * at); });
      const last = track.count - 1, limbs = body.limbs.length;
      body.limbs.forEach(([rig, from, to], at) => {
        const before = Math.min(Math.floor(frame), last), next = Math.min(before + 1, last), share = Math.min(frame, last) - before;
        const angle = (1 - share) * twists[limbs * before + at] + share * twists[limbs * next + at];
        axis.fromArray(rest, 3 * (rig + 1)).sub(end.fromArray(rest, 3 * rig)).normalize();
        for (const k of [2, 1, 0]) {
          turned[rig + k].copy(turned[rig]).multiply(part.setFromAxisAngle(axis, (k / 2 - 1) * angle));
          places[rig + k].fromArray(joint, 3 * from).lerp(end.fromArray(joint, 3 * to), k / 3);
        }
      });
      turned.forEach((quaternion, rig) => {
        const found = matrix.makeRotationFromQuaternion(quaternion).elements;
        for (let k = 0; k < 9; k++) rows[9 * rig + k] = found[4 * (k % 3) + Math.floor(k / 3)];
      });
    }

    function move(joint, frame) {
      pose(joint, frame);
      points.fill(0);
      across.fill(0);
      for (let at = 0; at < INFLUENCES * count; at++) {
        const weight = weights[at];
        if (!weight) continue;
        const rig = joints[at], vertex = 3 * Math.floor(at / INFLUENCES), place = places[rig];
        const [x, y, z] = [own[3 * at], own[3 * at + 1], own[3 * at + 2]], r = 9 * rig;
        const [nx, ny, nz] = [normals[vertex], normals[vertex + 1], normals[vertex + 2]];
        points[vertex] += weight * (rows[r] * x + rows[r + 1] * y + rows[r + 2] * z + place.x);
        points[vertex + 1] += weight * (rows[r + 3] * x + rows[r + 4] * y + rows[r + 5] * z + place.y);
        points[vertex + 2] += weight * (rows[r + 6] * x + rows[r + 7] * y + rows[r + 8] * z + place.z);
        across[vertex] += weight * (rows[r] * nx + rows[r + 1] * ny + rows[r + 2] * nz);
        across[vertex + 1] += weight * (rows[r + 3] * nx + rows[r + 4] * ny + rows[r + 5] * nz);
        across[vertex + 2] += weight * (rows[r + 6] * nx + rows[r + 7] * ny + rows[r + 8] * nz);
      }
      geometry.attributes.position.needsUpdate = geometry.attributes.normal.needsUpdate = true;
    }

    // Its own colours, or one for all where motions lie over each other.
    function paint(colour, shadow) {
      if (skin.vertexColors === Boolean(colour)) { skin.vertexColors = !colour; skin.needsUpdate = true; }
      skin.color.set(colour || "#ffffff");
      dark.color.copy(shadow);
    }

    function dispose() {
      for (const made of [geometry, skin, dark]) made.dispose();
    }

    return { mesh, shade, points, move, paint, dispose };
  }

  return { unpack, make };
})();
