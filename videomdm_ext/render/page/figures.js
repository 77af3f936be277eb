// People, ground and trails for three.js. A figure is spheres at joints and tubes along bones, drawn in few calls.
const Figures = (() => {
  "use strict";
  const SQUARE = 0.5, GROUND = 12, LIFT = 0.004, RIBBON = 0.018;
  const RADII = { middle: 0.058, left: 0.042, right: 0.042 };
  const HEAD = 0.105, STANDING = 0.065, UP = new THREE.Vector3(0, 1, 0);
  const ball = new THREE.SphereGeometry(1, 20, 14), tube = new THREE.CylinderGeometry(1, 1, 1, 14, 1, true);

  function instances(geometry, material, count) {
    const made = new THREE.InstancedMesh(geometry, material, count);
    made.frustumCulled = false;
    return made;
  }

  // { group, pose(), paint(), trail() ... } of one motion on a skeleton { parents, sides, head, feet }, with a `body`.
  function make(skeleton, track, body, stored) {
    const joints = skeleton.parents.length, group = new THREE.Group(), shade = new THREE.Group();
    const skin = new THREE.MeshLambertMaterial(), dark = new THREE.MeshBasicMaterial();
    const figure = { track, group, skin, dark, trails: trail(track, joints) };
    figure.balls = instances(ball, skin, joints);
    figure.tubes = instances(tube, skin, joints);
    for (const [geometry, lit] of [[ball, figure.balls], [tube, figure.tubes]]) {
      const shadow = instances(geometry, dark, joints);
      shadow.instanceMatrix = lit.instanceMatrix;
      shade.add(shadow);
    }
    shade.scale.y = 1e-4;
    shade.position.y = LIFT;
    figure.sticks = [figure.balls, figure.tubes, shade];
    figure.body = Bodies.make(body, stored, track);
    group.add(...figure.sticks, ...figure.trails);
    if (figure.body) group.add(figure.body.mesh, figure.body.shade);
    return figure;
  }

  // Two ribbons on the ground along the root's way: all of it, pale, and what is done of it.
  function trail(track, joints) {
    const points = new Float32Array(6 * track.count), triangles = [];
    for (let at = 0; at < track.count; at++) {
      const [before, after] = [Math.max(0, at - 1), Math.min(track.count - 1, at + 1)];
      const [x, z] = ground(track, joints, at), [ax, az] = ground(track, joints, before);
      const [bx, bz] = ground(track, joints, after);
      const length = Math.hypot(bx - ax, bz - az) || 1;
      const [dx, dz] = [-(bz - az) / length * RIBBON, (bx - ax) / length * RIBBON];
      points.set([x + dx, LIFT, z + dz, x - dx, LIFT, z - dz], 6 * at);
      const k = 2 * at;
      if (at + 1 < track.count) triangles.push(k, k + 1, k + 2, k + 1, k + 3, k + 2);
    }
    return [0.25, 1].map((opacity, lift) => {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(points, 3));
      geometry.setIndex(triangles);
      const ribbon = new THREE.Mesh(geometry, new THREE.MeshBasicMaterial({
        side: THREE.DoubleSide, transparent: true, opacity, depthWrite: false }));
      ribbon.position.y = LIFT * (1 + lift);
      ribbon.frustumCulled = false;
      return ribbon;
    });
  }

  function ground(track, joints, at) {
    const [x, z] = [track.positions[3 * joints * at], track.positions[3 * joints * at + 2]];
    return Number.isFinite(x + z) ? [x, z] : track.path[at];
  }

  const part = { matrix: new THREE.Matrix4(), turn: new THREE.Quaternion(), size: new THREE.Vector3(),
    from: new THREE.Vector3(), to: new THREE.Vector3(), along: new THREE.Vector3(), middle: new THREE.Vector3() };

  // Put the figure into a pose [J 3]; joints that are not finite, and their bones, are not drawn.
  function move(figure, skeleton, pose, standing, frame) {
    const { matrix, turn, size, from, to, along, middle } = part;
    skeleton.parents.forEach((parent, joint) => {
      to.fromArray(pose, 3 * joint);
      const radius = joint === skeleton.head ? HEAD : stands(skeleton, standing, joint) ? STANDING
        : RADII[skeleton.sides[joint]];
      const there = Number.isFinite(to.x + to.y + to.z);
      size.setScalar(there ? radius : 0);
      figure.balls.setMatrixAt(joint, matrix.compose(there ? to : middle.set(0, 0, 0), turn.identity(), size));
      from.fromArray(pose, 3 * Math.max(parent, 0));
      along.subVectors(to, from);
      const length = along.length(), width = RADII[skeleton.sides[joint]];
      const bone = parent >= 0 && length > 1e-6 && Number.isFinite(length);
      size.set(bone ? width : 0, bone ? length : 0, bone ? width : 0);
      if (bone) turn.setFromUnitVectors(UP, along.divideScalar(length));
      middle.copy(from).add(to).multiplyScalar(0.5);
      figure.tubes.setMatrixAt(joint, matrix.compose(bone ? middle : middle.set(0, 0, 0), turn, size));
    });
    figure.balls.instanceMatrix.needsUpdate = figure.tubes.instanceMatrix.needsUpdate = true;
    figure.trails[1].geometry.setDrawRange(0, 6 * Math.min(Math.floor(frame), figure.track.count - 1));
  }

  function stands(skeleton, standing, joint) {
    return skeleton.feet.some((foot, at) => foot === joint && standing[at]);
  }

  // colours: { left, right, middle, touch, shadow, own } as THREE.Color.
  function paint(figure, skeleton, standing, colours) {
    skeleton.parents.forEach((_, joint) => {
      const side = colours[skeleton.sides[joint]];
      const touched = stands(skeleton, standing, joint);
      figure.balls.setColorAt(joint, touched ? colours.touch : joint === skeleton.head ? colours.own : side);
      figure.tubes.setColorAt(joint, side);
    });
    figure.balls.instanceColor.needsUpdate = figure.tubes.instanceColor.needsUpdate = true;
    figure.dark.color.copy(colours.shadow);
    for (const ribbon of figure.trails) ribbon.material.color.copy(colours.own);
  }

  function dispose(figure) {
    for (const ribbon of figure.trails) { ribbon.geometry.dispose(); ribbon.material.dispose(); }
    for (const mesh of [figure.balls, figure.tubes]) mesh.dispose();
    figure.body?.dispose();
    figure.skin.dispose();
    figure.dark.dispose();
  }

  // The scene that all figures stand in: { scene, world, light(colours), centre(x, z) }.
  function stage() {
    const scene = new THREE.Scene(), world = new THREE.Group();
    const sun = new THREE.DirectionalLight(0xffffff, 1.3);
    sun.position.set(2, 5, 3);
    scene.add(world, new THREE.HemisphereLight(0xffffff, 0xb0b6c0, 2.4), sun);
    const grid = new THREE.LineSegments(squares(), new THREE.LineBasicMaterial());
    world.add(grid);
    function light(colours) {
      scene.background = colours.ground;
      scene.fog = new THREE.Fog(colours.ground, 7, GROUND + 3);
      grid.material.color.copy(colours.rule);
    }
    // The ground has no end: its middle goes along, by whole squares.
    function centre(x, z) {
      grid.position.set(Math.round(x / SQUARE) * SQUARE, 0, Math.round(z / SQUARE) * SQUARE);
    }
    return { scene, world, light, centre };
  }

  // Lines of a grid of GROUND metres to every side, in pieces of a square: fog is wrong on lines that pass the camera.
  function squares() {
    const points = [], count = GROUND / SQUARE;
    for (let row = -count; row <= count; row++) {
      for (let at = -count; at < count; at++) {
        const [side, from, to] = [row * SQUARE, at * SQUARE, (at + 1) * SQUARE];
        points.push(side, 0, from, side, 0, to, from, 0, side, to, 0, side);
      }
    }
    return new THREE.BufferGeometry().setAttribute("position", new THREE.BufferAttribute(new Float32Array(points), 3));
  }

  // Let a camera see exactly what a fitted picture shows: `matrix` is [R | t] of picture.js.
  function lookThrough(lens, matrix, fitted) {
    const near = 0.05, far = 200, [a, b, c] = [0, 4, 8].map((row) => Array.from(matrix.subarray(row, row + 3)));
    const t = [matrix[3], matrix[7], matrix[11]];
    const eye = [0, 1, 2].map((axis) => -(a[axis] * t[0] + b[axis] * t[1] + c[axis] * t[2]));
    lens.matrixAutoUpdate = false;
    lens.matrix.set(a[0], -b[0], -c[0], eye[0], a[1], -b[1], -c[1], eye[1], a[2], -b[2], -c[2], eye[2], 0, 0, 0, 1);
    lens.matrixWorldNeedsUpdate = true;
    lens.projectionMatrix.makePerspective(near * fitted.left, near * fitted.right, -near * fitted.top,
      -near * fitted.bottom, near, far);
    lens.projectionMatrixInverse.copy(lens.projectionMatrix).invert();
  }

  return { make, move, paint, dispose, stage, lookThrough };
})();
