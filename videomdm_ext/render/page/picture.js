// What a scene's camera sees. Cameras are [R | t], row by row: x right, y down, z forward, X_camera = R X + t.
// Image points are on the normalised plane: u = x / z to the right, v = y / z down.
const Picture = (() => {
  "use strict";
  const NEAREST = 1e-3, MARGIN = 1.3, REACH = 12;

  function unpack(stored, joints) {
    const view = { extrinsics: Motion.floats(stored.extrinsics), keypoints: Motion.floats(stored.keypoints),
      confidence: Motion.bytes(stored.confidence), reference: stored.reference, footage: stored.footage };
    return { ...view, extents: extents(view, joints) };
  }

  // The frames around a time in a clip of so many, and how far it is from the first to the second.
  function around(frame, count) {
    const before = Math.min(Math.floor(frame), count - 1);
    return [before, Math.min(before + 1, count - 1), Math.min(frame, count - 1) - before];
  }

  function camera(view, frame) {
    const [before, after, share] = around(frame, view.extrinsics.length / 12);
    return Float32Array.from({ length: 12 }, (_, at) =>
      (1 - share) * view.extrinsics[12 * before + at] + share * view.extrinsics[12 * after + at]);
  }

  // Keypoints at a time, [J] of { u, v, sure }: between two frames only where both saw the joint.
  function seen(view, frame, joints) {
    const [before, after, share] = around(frame, view.confidence.length / joints), { keypoints, confidence } = view;
    return Array.from({ length: joints }, (_, joint) => {
      const [first, second] = [joints * before + joint, joints * after + joint];
      const part = confidence[first] && confidence[second] ? share : 0;
      const [u, v] = [0, 1].map((axis) =>
        (1 - part) * keypoints[2 * first + axis] + part * keypoints[2 * second + axis]);
      return { u, v, sure: confidence[first] / 255 };
    });
  }

  // Image points and depths [u, v, depth] of a pose [J 3].
  function project(pose, matrix) {
    const points = [];
    for (let at = 0; at < pose.length; at += 3) {
      const [x, y, depth] = [0, 4, 8].map((row) => matrix[row] * pose[at] + matrix[row + 1] * pose[at + 1]
        + matrix[row + 2] * pose[at + 2] + matrix[row + 3]);
      points.push([x / Math.max(depth, NEAREST), y / Math.max(depth, NEAREST), depth]);
    }
    return points;
  }

  // The smallest box about points { u, v, sure }, or null about none: { u, v, width, height }.
  function boxOf(points) {
    const sure = points.filter((point) => point.sure);
    if (!sure.length) return null;
    const [left, right, top, bottom] = [["u", Math.min], ["u", Math.max], ["v", Math.min], ["v", Math.max]].map(
      ([axis, end]) => sure.reduce((best, point) => end(best, point[axis]), sure[0][axis]));
    return { u: (left + right) / 2, v: (top + bottom) / 2, width: right - left, height: bottom - top };
  }

  // What the picture shows at each frame: `whole`, where all keypoints are, and `path` [T], a part as large as the
  // largest pose that goes with the person.
  function extents(view, joints) {
    const count = view.confidence.length / joints, boxes = [];
    for (let at = 0; at < count; at++) boxes.push(boxOf(seen(view, at, joints)) || boxes[at - 1] || null);
    const known = boxes.filter(Boolean);
    if (!known.length) return { whole: { u: 0, v: 0, width: 1, height: 1 }, path: [] };
    const corners = known.flatMap(({ u, v, width, height }) => [-0.5, 0.5].map((half) => (
      { u: u + half * width, v: v + half * height, sure: 1 })));
    const largest = (side) => Math.max(0.05, ...known.map((box) => box[side])) * MARGIN;
    const [width, height] = [largest("width"), largest("height")], whole = boxOf(corners);
    const path = boxes.map((_, at) => {
      const near = boxes.slice(Math.max(0, at - REACH), at + REACH + 1).filter(Boolean);
      const mean = (axis) => near.reduce((sum, box) => sum + box[axis], 0) / near.length;
      return near.length ? { u: mean("u"), v: mean("v"), width, height } : { ...whole, width, height };
    });
    return { whole: { ...whole, width: whole.width * MARGIN + 0.02, height: whole.height * MARGIN + 0.02 }, path };
  }

  function extent(view, frame, follow) {
    const { whole, path } = view.extents;
    if (!follow || !path.length) return whole;
    const [before, after, share] = around(frame, path.length), mix = (axis) =>
      (1 - share) * path[before][axis] + share * path[after][axis];
    return { ...path[before], u: mix("u"), v: mix("v") };
  }

  // How an extent fits into a rectangle of pixels { x, y, width, height }: scale, and what of the plane is seen then.
  function fit(extent, box) {
    const scale = Math.min(box.width / extent.width, box.height / extent.height);
    const [wide, high] = [box.width / scale / 2, box.height / scale / 2];
    return { scale, left: extent.u - wide, right: extent.u + wide, top: extent.v - high, bottom: extent.v + high, box };
  }

  const pixel = (fitted, [u, v]) => [
    fitted.box.x + (u - fitted.left) * fitted.scale, fitted.box.y + (v - fitted.top) * fitted.scale];

  // Start to load the pictures of a video { images, every, box }, and call back as they come.
  function load(footage, ready) {
    footage.pictures ||= footage.images.map((image) => Object.assign(new Image(), { src: `data:image/webp;base64,${image}` }));
    for (const picture of footage.pictures) picture.onload = ready;
  }

  function drawFootage(pen, fitted, footage, frame) {
    const at = Math.min(Math.round(frame / footage.every), footage.images.length - 1), picture = footage.pictures?.[at];
    if (!picture?.complete || !picture.naturalWidth) return;
    const [left, top, right, bottom] = footage.box, corner = pixel(fitted, [left, top]);
    pen.drawImage(picture, ...corner, (right - left) * fitted.scale, (bottom - top) * fitted.scale);
  }

  function drawBones(pen, fitted, points, parents, colour, width) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = "round";
    pen.beginPath();
    points.forEach((point, joint) => {
      const parent = points[parents[joint]];
      if (!parent || !(point[2] > NEAREST && parent[2] > NEAREST)) return;
      pen.moveTo(...pixel(fitted, parent));
      pen.lineTo(...pixel(fitted, point));
    });
    pen.stroke();
  }

  function drawKeypoints(pen, fitted, points, colours, radius) {
    points.forEach(({ u, v, sure }, joint) => {
      if (!sure) return;
      pen.globalAlpha = 0.12 + 0.88 * sure;
      pen.fillStyle = colours.side(joint);
      pen.strokeStyle = colours.paper;
      pen.lineWidth = 1;
      pen.beginPath();
      pen.arc(...pixel(fitted, [u, v]), radius, 0, 2 * Math.PI);
      pen.fill();
      pen.stroke();
    });
    pen.globalAlpha = 1;
  }

  // Mean distance of image points from sure keypoints at the points' depth, m; NaN where there are none.
  function misfit(points, keypoints) {
    let sum = 0, total = 0;
    points.forEach(([u, v, depth], joint) => {
      const key = keypoints[joint];
      if (!key.sure || !(depth > NEAREST)) return;
      sum += key.sure * depth * Math.hypot(u - key.u, v - key.v);
      total += key.sure;
    });
    return total ? sum / total : NaN;
  }

  // Errors along the rays of a camera of a pose [J 3], m, farther being positive: of the pelvis { pelvis }, and of joints
  // from { ghost }, the true pose moved along to the same pelvis: { mean, parts } with a { joint, on, off } each, `on` the
  // place on the joint's ray that is as far as the true one.
  function depthErrors(pose, truth, matrix) {
    const place = [0, 1, 2].map((axis) => -[0, 1, 2].reduce((sum, row) => sum + matrix[4 * row + axis] * matrix[4 * row + 3], 0));
    const ray = (point) => {
      const way = point.map((value, axis) => value - place[axis]), length = Math.hypot(...way);
      return way.map((value) => value / length);
    };
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const shift = [0, 1, 2].map((axis) => pose[axis] - truth[axis]);
    const ghost = truth.map((value, at) => value + shift[at % 3]), parts = [];
    for (let at = 3; at < pose.length; at += 3) {
      const [from, to] = [Array.from(pose.subarray(at, at + 3)), Array.from(ghost.subarray(at, at + 3))];
      const way = ray(from), off = dot(from.map((value, axis) => value - to[axis]), way);
      if (Number.isFinite(off)) parts.push({ joint: from, on: from.map((value, axis) => value - off * way[axis]), off });
    }
    const mean = parts.reduce((sum, part) => sum + Math.abs(part.off), 0) / parts.length;
    return { ghost, parts, mean, pelvis: dot(shift, ray(Array.from(truth.subarray(0, 3)))) };
  }

  // Lines from joints to the places on their rays that are as far as the true ones; points are [u, v, ...].
  function drawErrors(pen, fitted, parts, colours) {
    pen.lineWidth = 3;
    for (const { joint, on, off } of parts) {
      pen.strokeStyle = off > 0 ? colours.far : colours.near;
      pen.beginPath();
      pen.moveTo(...pixel(fitted, joint));
      pen.lineTo(...pixel(fitted, on));
      pen.stroke();
    }
  }

  return { load, drawFootage, depthErrors, drawErrors, unpack, camera, seen, project, extents, extent, fit, drawBones, drawKeypoints, misfit };
})();
