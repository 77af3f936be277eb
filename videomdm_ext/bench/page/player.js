// Plays motions of one caption side by side: one canvas a motion, one clock and one camera for all.
// Positions are metres, y up; the camera looks along -z at azimuth 0, keeps its direction and follows each person.
(() => {
  "use strict";
  const stored = JSON.parse(document.getElementById("motions").textContent);
  const player = document.getElementById("player");
  const part = (name) => player.querySelector(`[data-part="${name}"]`);
  const stage = part("stage"), scrub = part("scrub"), clock = part("clock");
  const toggle = part("toggle"), choice = part("caption"), speed = part("speed");
  const HEIGHT = 2.6, DISTANCE = 6, REACH = 2.5, STEP = 0.5, MARGIN = 24;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const view = { azimuth: -0.7, elevation: 0.22 };
  let panels = [], frames = 1, frame = 0, playing = false, before = 0, queued = false;

  function positions(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const numbers = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 2 }, (_, at) => numbers.getInt16(2 * at, true) / 1000);
  }

  function followed(motion, joints) {
    const count = motion.length / (3 * joints), track = [];
    for (let at = 0; at < count; at++) {
      let x = 0, z = 0, total = 0;
      for (let other = Math.max(0, at - MARGIN); other <= Math.min(count - 1, at + MARGIN); other++) {
        const weight = Math.exp(-0.5 * ((at - other) / 8) ** 2);
        x += weight * motion[3 * joints * other];
        z += weight * motion[3 * joints * other + 2];
        total += weight;
      }
      track.push([x / total, z / total]);
    }
    return track;
  }

  function show(index) {
    const example = stored.examples[index], joints = stored.parents.length;
    stage.replaceChildren();
    panels = example.motions.map(({ name, positions: text }) => {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas");
      const title = document.createElement("figcaption");
      title.textContent = name;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${name}: ${example.caption}`);
      figure.append(title, canvas);
      stage.append(figure);
      const motion = positions(text);
      return { canvas, motion, track: followed(motion, joints), count: motion.length / (3 * joints) };
    });
    frames = Math.max(1, ...panels.map((panel) => panel.count));
    scrub.max = String(frames - 1);
    seek(0);
  }

  function seek(next) {
    frame = Math.min(Math.max(next, 0), frames - 1);
    refresh();
  }

  function refresh() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; draw(); });
  }

  function play(start) {
    playing = start;
    player.dataset.state = start ? "playing" : "paused";
    toggle.textContent = start ? "Pause" : "Play";
    if (!start) return;
    if (frame >= frames - 1) frame = 0;
    before = performance.now();
    requestAnimationFrame(tick);
  }

  function tick(now) {
    if (!playing) return;
    frame += Math.max(0, now - before) / 1000 * stored.fps * Number(speed.value);
    before = now;
    if (frame > frames - 1 + 0.7 * stored.fps) frame = 0;
    draw();
    requestAnimationFrame(tick);
  }

  function draw() {
    const at = Math.floor(Math.min(Math.max(frame, 0), frames - 1));
    const style = getComputedStyle(player);
    const colours = Object.fromEntries(["left", "right", "middle", "rule", "shadow"].map(
      (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    for (const panel of panels) drawPanel(panel, Math.min(at, panel.count - 1), colours);
    scrub.value = String(at);
    scrub.setAttribute("aria-valuetext", `${(at / stored.fps).toFixed(1)} seconds`);
    clock.textContent = `${(at / stored.fps).toFixed(1)} / ${((frames - 1) / stored.fps).toFixed(1)} s`;
    player.dataset.frame = String(at);
  }

  function drawPanel(panel, at, colours) {
    const { canvas, motion, track } = panel, joints = stored.parents.length;
    const side = canvas.clientWidth || 240, ratio = window.devicePixelRatio || 1;
    const size = Math.round(side * ratio);
    if (canvas.width !== size) { canvas.width = size; canvas.height = size; }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, side, side);
    if (at < 0) return;
    const [x, z] = track[at], eye = camera(x, z, side);
    drawFloor(pen, eye, x, z, colours);
    const pose = Array.from({ length: joints }, (_, joint) => {
      const start = 3 * (joints * at + joint);
      return [motion[start], motion[start + 1], motion[start + 2]];
    });
    const shadow = pose.map((point) => eye(point[0], 0, point[2]));
    const body = pose.map((point) => eye(...point));
    const order = stored.parents.map((parent, joint) => joint).filter((joint) => stored.parents[joint] >= 0);
    order.sort((a, b) => depth(body, a) - depth(body, b));
    for (const joint of order) limb(pen, shadow[stored.parents[joint]], shadow[joint], colours.shadow, side / 100);
    for (const joint of order) {
      limb(pen, body[stored.parents[joint]], body[joint], colours[stored.sides[joint]], side / 62);
    }
    if (stored.head >= 0) disc(pen, body[stored.head], side / 32, colours.middle);
  }

  const depth = (body, joint) => body[joint][2] + body[stored.parents[joint]][2];

  // A function from a place to [x, y] of the canvas and how near it is; clamped in front of the camera.
  function camera(x, z, side) {
    const [ca, sa] = [Math.cos(view.azimuth), Math.sin(view.azimuth)];
    const [ce, se] = [Math.cos(view.elevation), Math.sin(view.elevation)];
    return (px, py, pz) => {
      const dx = px - x, dy = py - 0.36 * HEIGHT, dz = pz - z;
      const right = ca * dx - sa * dz, forward = sa * dx + ca * dz;
      const up = ce * dy - se * forward, near = ce * forward + se * dy;
      const scale = side / HEIGHT * DISTANCE / Math.max(DISTANCE - near, 0.5);
      return [side / 2 + right * scale, side / 2 - up * scale, near];
    };
  }

  function drawFloor(pen, eye, x, z, colours) {
    pen.strokeStyle = colours.rule;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let k = Math.ceil((x - REACH) / STEP); k <= Math.floor((x + REACH) / STEP); k++) {
      const half = Math.sqrt(Math.max(REACH ** 2 - (k * STEP - x) ** 2, 0));
      line(pen, eye(k * STEP, 0, z - half), eye(k * STEP, 0, z + half));
    }
    for (let k = Math.ceil((z - REACH) / STEP); k <= Math.floor((z + REACH) / STEP); k++) {
      const half = Math.sqrt(Math.max(REACH ** 2 - (k * STEP - z) ** 2, 0));
      line(pen, eye(x - half, 0, k * STEP), eye(x + half, 0, k * STEP));
    }
    pen.stroke();
  }

  function line(pen, start, end) {
    pen.moveTo(start[0], start[1]);
    pen.lineTo(end[0], end[1]);
  }

  function limb(pen, start, end, colour, width) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = "round";
    pen.beginPath();
    line(pen, start, end);
    pen.stroke();
  }

  function disc(pen, [x, y], radius, colour) {
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fill();
  }

  function orbit(event) {
    if (!(event.buttons & 1)) return;
    view.azimuth -= event.movementX * 0.01;
    view.elevation = Math.min(Math.max(view.elevation + event.movementY * 0.006, -0.1), 1.5);
    refresh();
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const free = event.target === document.body || event.target === player || event.target === scrub;
    if (!free || !inView()) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -frames, End: frames };
    if (event.key === " ") play(!playing);
    else if (event.key in steps && event.target !== document.body || /^Arrow(Left|Right)$/.test(event.key)) {
      play(false);
      seek(Math.floor(frame) + (event.shiftKey ? 10 : 1) * steps[event.key]);
    } else return;
    event.preventDefault();
  }

  function inView() {
    const { top, bottom } = player.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  }

  stored.examples.forEach((example, index) => choice.add(new Option(example.title, String(index))));
  choice.addEventListener("change", () => show(Number(choice.value)));
  toggle.addEventListener("click", () => play(!playing));
  scrub.addEventListener("input", () => { play(false); seek(Number(scrub.value)); });
  stage.addEventListener("pointerdown", (event) => stage.setPointerCapture(event.pointerId));
  stage.addEventListener("pointermove", orbit);
  document.addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
  addEventListener("resize", refresh);
  for (const button of document.querySelectorAll("[data-play]")) {
    button.addEventListener("click", () => {
      choice.value = button.dataset.play;
      show(Number(choice.value));
      player.scrollIntoView({ block: "nearest" });
      player.focus({ preventScroll: true });
      play(true);
    });
  }
  show(0);
  draw();
  play(!calm);
})();
