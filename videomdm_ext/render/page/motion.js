// Motions as they are stored in the page, unpacked. Positions are metres, y up; frames count from 0.
const Motion = (() => {
  "use strict";
  const MISSING = -32768, REACH = 24, WIDTH = 8;

  function view(text) {
    return new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }

  function floats(text) {
    const numbers = view(text);
    return Float32Array.from({ length: numbers.byteLength / 4 }, (_, at) => numbers.getFloat32(4 * at, true));
  }

  function bytes(text) {
    return new Uint8Array(view(text).buffer);
  }

  // { name, count frames, positions [T J 3] with NaN where there is none, contacts [T feet] or null, path [T 2] }
  function unpack(stored, joints) {
    const numbers = view(stored.positions), { origin, unit } = stored;
    const positions = Float32Array.from({ length: numbers.byteLength / 2 }, (_, at) => {
      const whole = numbers.getInt16(2 * at, true);
      return whole === MISSING ? NaN : origin[at % 3] + unit * whole;
    });
    const count = positions.length / (3 * joints);
    const contacts = stored.contacts ? bytes(stored.contacts) : null;
    return { name: stored.name, count, positions, contacts, path: smoothed(positions, joints, count) };
  }

  // Where the root is on the ground, without its sway, for a camera that follows.
  function smoothed(positions, joints, count) {
    const path = [];
    for (let at = 0; at < count; at++) {
      let x = 0, z = 0, total = 0;
      for (let other = Math.max(0, at - REACH); other <= Math.min(count - 1, at + REACH); other++) {
        const start = 3 * joints * other;
        if (!Number.isFinite(positions[start] + positions[start + 2])) continue;
        const weight = Math.exp(-0.5 * ((at - other) / WIDTH) ** 2);
        x += weight * positions[start];
        z += weight * positions[start + 2];
        total += weight;
      }
      path.push(total ? [x / total, z / total] : path[at - 1] || [0, 0]);
    }
    return path;
  }

  // The pose [J 3] at a time between frames; the last one stays behind the end.
  function pose(track, frame, joints) {
    const size = 3 * joints, last = track.count - 1;
    const before = Math.min(Math.floor(frame), last), after = Math.min(before + 1, last);
    const share = Math.min(frame, last) - before, found = new Float32Array(size);
    for (let at = 0; at < size; at++) {
      found[at] = (1 - share) * track.positions[size * before + at] + share * track.positions[size * after + at];
    }
    return found;
  }

  function place(track, frame) {
    const last = track.count - 1, before = Math.min(Math.floor(frame), last), after = Math.min(before + 1, last);
    const share = Math.min(frame, last) - before, path = track.path;
    return [0, 1].map((axis) => (1 - share) * path[before][axis] + share * path[after][axis]);
  }

  // Which contact joints stand at a frame: [feet] of 0 and 1.
  function standing(track, frame, feet) {
    if (!track.contacts) return new Uint8Array(feet);
    const at = Math.min(Math.floor(frame), track.count - 1);
    return track.contacts.subarray(feet * at, feet * (at + 1));
  }

  return { unpack, pose, place, standing, floats, bytes };
})();
