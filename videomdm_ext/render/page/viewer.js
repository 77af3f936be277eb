// Plays the motions of one caption at a time, with one clock and one camera for all of them. A page with no scenes shows
// those that its own script puts there; the viewer gets the event "end" whenever the last frame is reached.
const Viewer = (() => {
  "use strict";
  const stored = JSON.parse(document.getElementById("motions").textContent);
  const viewer = document.getElementById("viewer"), root = document.documentElement;
  const part = Object.fromEntries([...viewer.querySelectorAll("[data-part]")].map((found) => [found.dataset.part, found]));
  const JOINTS = stored.parents.length, COLOURS = 8, PAUSE = 0.7, MIDDLE = 0.9, DISTANCE = 5.2, NEAR = 4, FIELD = 35, LONGEST = 500;
  const SIDES = ["left", "right", "middle"], OTHERS = ["touch", "shadow", "ground", "rule", "paper", "near", "far"];
  const names = [...new Set(stored.scenes.flatMap((scene) => scene.tracks.map((track) => track.name)))];
  const hidden = new Set(), system = matchMedia("(prefers-color-scheme: dark)");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const is = { playing: false, overlaid: false, camera: false, lines: true, depth: false, follow: true, trail: true,
    body: Boolean(stored.body) };
  const mesh = Bodies.unpack(stored.body);
  let index = 0, seed = null, tracks = [], view = null, truth = null, frames = 1, frame = 0, before = 0, ticking = 0, queued = false, placed = false, colours = {};
  const space = openSpace();

  // WebGL, or null where there is none.
  function openSpace() {
    const probe = document.createElement("canvas");
    if (!probe.getContext("webgl2")) return null;
    const renderer = new THREE.WebGLRenderer({ canvas: part.canvas, antialias: true });
    const eye = new THREE.PerspectiveCamera(FIELD, 1, 0.05, 200), lens = new THREE.PerspectiveCamera();
    const controls = new THREE.OrbitControls(eye, part.canvas);
    controls.maxPolarAngle = 1.62;
    controls.minDistance = 0.8;
    controls.maxDistance = 40;
    controls.addEventListener("change", refresh);
    return { renderer, eye, lens, controls, stage: Figures.stage() };
  }

  function home() {
    if (!space) return;
    placed = true;
    const [azimuth, elevation] = is.depth ? [aside(), 0.08] : [-0.6, 0.2];
    space.controls.target.set(0, MIDDLE, 0);
    space.eye.position.set(Math.sin(azimuth) * Math.cos(elevation), Math.sin(elevation),
      Math.cos(azimuth) * Math.cos(elevation)).multiplyScalar((is.depth ? NEAR : DISTANCE) * reach()).add(space.controls.target);
    space.controls.update();
    refresh();
  }

  // Where to stand so that the scene's camera is at the left.
  function aside() {
    const matrix = Picture.camera(view, Math.min(frame, frames - 1));
    return Math.atan2(-matrix[10], matrix[8]);
  }

  // How much farther than for one person the camera stands: motions that are not followed, or lie over each other.
  function reach() {
    const shown = visible();
    if (!shown.length || (is.follow && !is.overlaid)) return 1;
    const [low, high] = bounds(shown.flatMap((track) => is.follow ? [Motion.place(track, frame)] : track.path));
    return 1 + Math.hypot(high[0] - low[0], high[1] - low[1]) / 3.2;
  }

  function bounds(places) {
    return [Math.min, Math.max].map((end) => [0, 1].map((axis) => end(...places.map((place) => place[axis]))));
  }

  const visible = () => tracks.filter((track) => !hidden.has(track.name));

  function show(number) {
    index = (number + stored.scenes.length) % stored.scenes.length;
    part.choice.value = String(index);
    part.list.querySelectorAll("button").forEach((button, at) => button.setAttribute("aria-current", String(at === index)));
    viewer.dataset.scene = String(index);
    put(stored.scenes[index]);
  }

  function put(scene) {
    for (const track of tracks) if (track.figure) forget(track);
    const own = ofSeed(scene.tracks);
    tracks = own.map((track) => Motion.unpack(track, JOINTS));
    for (const [at, track] of space ? tracks.entries() : []) {
      track.figure = Figures.make(stored, track, mesh, own[at]);
      space.stage.world.add(track.figure.group);
    }
    view = scene.view ? Picture.unpack(scene.view, JOINTS) : null;
    frames = Math.max(1, ...tracks.map((track) => track.count));
    truth = tracks.find((track) => view && track.name === view.reference) || null;
    part.caption.textContent = scene.caption;
    part.note.textContent = scene.note || "";
    part.seen.hidden = !view;
    part.seen.parentElement.dataset.footage = view?.footage.images.length ? "some" : "none";
    part.camera.disabled = part.lines.disabled = !view;
    part.depth.disabled = !truth;
    if (!view) is.camera = false;
    if (!truth) is.depth = false;
    if (view) {
      part.footage.textContent = view.footage.note;
      Picture.load(view.footage, refresh);
    }
    part.reference.textContent = view?.reference || "";
    part.ghost.textContent = view ? `the ${view.reference}, moved to the same pelvis` : "";
    part.scrub.max = String(frames - 1);
    legend();
    seek(0);
    if (!placed || !is.follow) home();
  }

  // The tracks of the chosen seed, and those that have none; a scene without that seed shows its first.
  function ofSeed(all) {
    const seeds = [...new Set(all.map((track) => track.seed).filter((one) => one !== undefined))];
    const now = seeds.includes(seed) ? seed : seeds[0];
    part.seeds.hidden = seeds.length < 2;
    part.seed.replaceChildren(...seeds.map((one) => new Option(String(one), String(one), false, one === now)));
    return all.filter((track) => track.seed === undefined || track.seed === now);
  }

  function forget(track) {
    space.stage.world.remove(track.figure.group);
    Figures.dispose(track.figure);
  }

  function legend() {
    part.legend.replaceChildren(...tracks.map((track, at) => {
      const button = document.createElement("button"), mark = document.createElement("i");
      button.type = "button";
      button.className = `track ${shade(track)}`;
      button.setAttribute("aria-pressed", String(!hidden.has(track.name)));
      if (at < 9) button.title = String(at + 1);
      button.append(mark, track.name);
      button.addEventListener("click", (event) => { blur(event); flip(at); });
      return button;
    }));
  }

  function flip(at) {
    const name = tracks[at]?.name;
    if (name === undefined) return;
    if (!hidden.delete(name)) hidden.add(name);
    part.legend.children[at].setAttribute("aria-pressed", String(!hidden.has(name)));
    refresh();
  }

  function change(what) {
    is[what] = !is[what];
    if (what === "depth" && is.depth) is.camera = false;
    if (["follow", "overlaid", "depth"].includes(what)) home();
    refresh();
  }

  function refresh() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; draw(); });
  }

  function seek(to) {
    frame = Math.min(Math.max(to, 0), frames - 1);
    refresh();
  }

  function play(start) {
    cancelAnimationFrame(ticking);
    is.playing = start;
    viewer.dataset.state = start ? "playing" : "paused";
    part.toggle.textContent = start ? "Pause" : "Play";
    if (!start) { frame = Math.min(Math.floor(frame), frames - 1); refresh(); return; }
    if (frame >= frames - 1) frame = 0;
    before = performance.now();
    ticking = requestAnimationFrame(tick);
  }

  function tick(now) {
    ticking = requestAnimationFrame(tick);
    const ahead = frame < frames - 1;
    frame += Math.min(Math.max(0, now - before), LONGEST) / 1000 * stored.fps * Number(part.speed.value);
    before = now;
    if (ahead && frame >= frames - 1) viewer.dispatchEvent(new Event("end"));
    if (frame > frames - 1 + PAUSE * stored.fps) frame = 0;
    draw();
  }

  function draw() {
    const time = Math.min(frame, frames - 1), shown = visible();
    if (view) view.now = Picture.seen(view, time, JOINTS);
    const camera = view && Picture.camera(view, time), known = truth && Motion.pose(truth, time, JOINTS);
    for (const track of shown) {
      track.pose = Motion.pose(track, time, JOINTS);
      track.points = view ? Picture.project(track.pose, camera) : null;
      track.errors = truth && track !== truth ? Picture.depthErrors(track.pose, known, camera) : null;
    }
    drawPicture(time, shown);
    drawSpace(time, shown);
    tell(time, shown);
  }

  function tell(time, shown) {
    const at = Math.floor(time), seconds = (number) => (number / stored.fps).toFixed(1);
    part.scrub.value = String(at);
    part.scrub.setAttribute("aria-valuetext", `${seconds(at)} seconds`);
    part.clock.textContent = `${seconds(at)} / ${seconds(frames - 1)} s`;
    for (const name of ["overlaid", "camera", "lines", "depth", "follow", "trail", "body"]) part[name].setAttribute("aria-pressed", String(is[name]));
    Object.assign(viewer.dataset, { frame: String(at), camera: is.camera ? "own" : "free",
      layout: is.overlaid ? "overlaid" : "side by side", shown: shown.map((track) => track.name).join(),
      depth: is.depth ? "on" : "off", figures: shown.length && shown.every(wears) ? "bodies" : "sticks" });
    if (!is.playing && view) {
      viewer.dataset.points = JSON.stringify(Object.fromEntries(shown.map((track) => [track.name, track.points])));
    }
  }

  const hue = (track) => ((names.indexOf(track.name) + 1 || names.push(track.name)) - 1) % COLOURS;
  const shade = (track) => `a${hue(track)}`;
  const tint = (track) => colours.arms[hue(track)];

  function sized(canvas) {
    const ratio = Math.min(devicePixelRatio || 1, 2), { clientWidth: width, clientHeight: height } = canvas;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return { pen, box: { x: 0, y: 0, width, height } };
  }

  const marks = { side: (joint) => colours.css[stored.sides[joint]], get paper() { return colours.css.paper; } };

  function drawPicture(time, shown) {
    if (!view) return;
    const { pen, box } = sized(part.picture), fitted = Picture.fit(Picture.extent(view, time, is.follow), box);
    Picture.drawFootage(pen, fitted, view.footage, time);
    for (const track of is.lines ? shown : []) Picture.drawBones(pen, fitted, track.points, stored.parents, tint(track), 2);
    Picture.drawKeypoints(pen, fitted, view.now, marks, 3.5);
    part.misfits.replaceChildren(...shown.map((track) => {
      const row = document.createElement("tr"), { errors } = track;
      row.className = shade(track);
      const off = Picture.misfit(track.points, view.now), cells = [off, errors ? errors.pelvis : NaN, errors ? errors.mean : NaN];
      row.append(Object.assign(document.createElement("th"), { textContent: track.name }), ...cells.map((metres, at) => (
        Object.assign(document.createElement("td"), { textContent: millimetres(metres, at === 1) }))));
      return row;
    }));
  }

  function millimetres(metres, signed) {
    if (!Number.isFinite(metres)) return "–";
    const whole = (1000 * metres).toFixed(0);
    return signed && metres > 0 ? `+${whole}` : whole;
  }

  function drawSpace(time, shown) {
    const { pen, box } = sized(part.overlay), cells = layout(shown, box);
    label(cells);
    if (!space) return;
    const { renderer, stage } = space, ratio = Math.min(devicePixelRatio || 1, 2);
    renderer.setPixelRatio(ratio);
    renderer.setSize(box.width, box.height, false);
    renderer.setScissorTest(true);
    for (const track of shown) pose(track, time);
    if (!cells.length) cells.push({ tracks: [], box });
    for (const cell of cells) {
      for (const track of tracks) track.figure.group.visible = cell.tracks.includes(track);
      const { x, y, width, height } = cell.box, bottom = box.height - y - height;
      renderer.setViewport(x, bottom, width, height);
      renderer.setScissor(x, bottom, width, height);
      renderer.render(stage.scene, is.camera && cell.tracks.length ? through(cell, time, pen) : around(cell, time));
      if (is.depth) for (const track of cell.tracks) if (track.errors) drawErrors(pen, cell.box, track.errors);
    }
  }

  // The true pose and the errors in depth over a cell, as the free camera sees them.
  function drawErrors(pen, box, errors) {
    const { width, height } = box, aspect = width / height, point = new THREE.Vector3(), { position } = space.stage.world;
    const flat = (place) => {
      const { x, y, z } = point.fromArray(place).add(position).project(space.eye);
      return [aspect * x, -y, z < 1 ? 1 : 0];
    };
    const fitted = { scale: height / 2, left: -aspect, top: -1, box };
    const ghost = Array.from({ length: JOINTS }, (_, joint) => flat(errors.ghost.subarray(3 * joint, 3 * joint + 3)));
    const parts = errors.parts.map((one) => ({ joint: flat(one.joint), on: flat(one.on), off: one.off }));
    pen.save();
    pen.beginPath();
    pen.rect(box.x, box.y, width, height);
    pen.clip();
    pen.globalAlpha = 0.6;
    Picture.drawBones(pen, fitted, ghost, stored.parents, colours.css.middle, 3);
    pen.globalAlpha = 1;
    Picture.drawErrors(pen, fitted, parts, colours.css);
    pen.restore();
  }

  const wears = (track) => Boolean(track.figure?.body) && is.body;

  function pose(track, time) {
    const standing = Motion.standing(track, time, stored.feet.length), own = new THREE.Color(tint(track));
    Figures.move(track.figure, stored, track.pose, standing, time);
    const sides = is.overlaid ? { left: own.clone().lerp(colours.light, 0.45), middle: own, right: own.clone().multiplyScalar(0.6) } : {};
    Figures.paint(track.figure, stored, standing, { ...colours.three, ...sides, own });
    for (const ribbon of track.figure.trails) ribbon.visible = is.trail;
    const { body, sticks } = track.figure, worn = wears(track);
    for (const stick of sticks) stick.visible = !worn;
    if (!body) return;
    body.mesh.visible = body.shade.visible = worn;
    if (!worn) return;
    body.move(track.pose, time);
    body.paint(is.overlaid ? own : null, colours.three.shadow);
  }

  // The free camera, with the world moved so that it stands before the cell's motions.
  function around(cell, time) {
    const places = cell.tracks.flatMap((track) => is.follow ? [Motion.place(track, time)] : track.path);
    const [low, high] = places.length ? bounds(places) : [[0, 0], [0, 0]];
    const [x, z] = [0, 1].map((axis) => (low[axis] + high[axis]) / 2);
    space.stage.world.position.set(-x, 0, -z);
    space.stage.centre(x, z);
    space.eye.aspect = cell.box.width / Math.max(cell.box.height, 1);
    space.eye.fov = FIELD * Math.max(1, Math.min(1.25, 0.6 / space.eye.aspect));
    space.eye.updateProjectionMatrix();
    return space.eye;
  }

  // The scene's own camera, with its keypoints over the picture.
  function through(cell, time, pen) {
    const fitted = Picture.fit(Picture.extent(view, time, is.follow), cell.box);
    space.stage.world.position.set(0, 0, 0);
    space.stage.centre(...Motion.place(cell.tracks[0], time));
    Figures.lookThrough(space.lens, Picture.camera(view, time), fitted);
    pen.save();
    pen.beginPath();
    pen.rect(cell.box.x, cell.box.y, cell.box.width, cell.box.height);
    pen.clip();
    Picture.drawKeypoints(pen, fitted, view.now, marks, 3);
    pen.restore();
    return space.lens;
  }

  // One cell for all motions, or one each, in the number of columns that leaves them the most room.
  function layout(shown, box) {
    if (!shown.length || is.overlaid) return shown.length ? [{ tracks: shown, box }] : [];
    const room = (columns) => Math.min(1.3 * box.width / columns, box.height / Math.ceil(shown.length / columns));
    const counts = shown.map((_, at) => at + 1);
    const columns = counts.reduce((best, count) => room(count) > room(best) ? count : best);
    const rows = Math.ceil(shown.length / columns), [width, height] = [box.width / columns, box.height / rows];
    return shown.map((track, at) => ({ tracks: [track],
      box: { x: at % columns * width, y: Math.floor(at / columns) * height, width, height } }));
  }

  function label(cells) {
    const now = JSON.stringify(cells.map((cell) => [cell.box, is.overlaid || cell.tracks[0].name]));
    if (part.labels.dataset.now === now) return;
    part.labels.dataset.now = now;
    part.labels.replaceChildren(...cells.map((cell) => {
      const made = document.createElement("span");
      if (!is.overlaid) [made.className, made.textContent] = [shade(cell.tracks[0]), cell.tracks[0].name];
      Object.assign(made.style, { left: `${cell.box.x}px`, top: `${cell.box.y}px`, width: `${cell.box.width}px`,
        height: `${cell.box.height}px` });
      return made;
    }));
  }

  function dress() {
    const style = getComputedStyle(root), css = (name) => style.getPropertyValue(`--${name}`).trim();
    colours.css = Object.fromEntries([...SIDES, ...OTHERS].map((name) => [name, css(name)]));
    colours.arms = Array.from({ length: COLOURS }, (_, at) => css(`arm${at}`));
    viewer.dataset.theme = css("theme");
    if (space) {
      colours.three = Object.fromEntries(Object.entries(colours.css).map(([name, value]) => [name, new THREE.Color(value)]));
      colours.light = new THREE.Color("#ffffff");
      space.stage.light(colours.three);
    }
    refresh();
  }

  function dark() {
    root.dataset.theme = viewer.dataset.theme === "dark" ? "light" : "dark";
    dress();
  }

  // A clicked button does not keep the keys of the player.
  function blur(event) {
    if (event.detail) event.currentTarget.blur();
  }

  const keys = { " ": () => play(!is.playing), l: () => change("overlaid"), c: () => view && change("camera"),
    k: () => view && change("lines"), e: () => truth && change("depth"), f: () => change("follow"), t: () => change("trail"), b: () => mesh && change("body"), r: home, d: dark, n: () => show(index + 1),
    p: () => show(index - 1), Home: () => stop(0), End: () => stop(frames - 1),
    ArrowLeft: (event) => stop(Math.floor(frame) - (event.shiftKey ? 10 : 1)),
    ArrowRight: (event) => stop(Math.floor(frame) + (event.shiftKey ? 10 : 1)) };

  function stop(to) {
    play(false);
    seek(to);
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select")) return;
    if (event.key === " " && event.target.closest("button, summary")) return;
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (act) act(event);
    else if (/^[1-9]$/.test(event.key)) flip(Number(event.key) - 1);
    else return;
    event.preventDefault();
  }

  function choose(scene, at) {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = scene.caption;
    button.addEventListener("click", (event) => { blur(event); show(at); });
    item.append(button);
    const before = at ? stored.scenes[at - 1].group : "", title = scene.group || "";
    let group = part.choice.lastElementChild;
    if (title && title !== before) {
      part.list.append(Object.assign(document.createElement("li"), { className: "group", textContent: title }));
      part.choice.append(group = Object.assign(document.createElement("optgroup"), { label: title }));
    }
    part.list.append(item);
    (title ? group : part.choice).append(new Option(scene.caption, String(at)));
  }

  stored.scenes.forEach(choose);
  viewer.dataset.scenes = stored.scenes.length > 1 ? "many" : "one";
  part.sorry.hidden = Boolean(space);
  part.body.hidden = !mesh;
  part.choice.addEventListener("change", () => show(Number(part.choice.value)));
  part.scrub.addEventListener("input", () => stop(Number(part.scrub.value)));
  part.seed.addEventListener("change", () => {
    const now = frame;
    seed = Number(part.seed.value);
    put(stored.scenes[index]);
    seek(now);
  });
  const buttons = { toggle: keys[" "], overlaid: keys.l, camera: keys.c, lines: keys.k, depth: keys.e, follow: keys.f, trail: keys.t, body: keys.b,
    home, dark };
  for (const [name, act] of Object.entries(buttons)) {
    part[name].addEventListener("click", (event) => { blur(event); act(event); });
  }
  document.addEventListener("keydown", onKey);
  system.addEventListener("change", dress);
  new ResizeObserver(refresh).observe(part.stage);
  new ResizeObserver(refresh).observe(part.picture);
  dress();
  if (stored.scenes.length) {
    show(0);
    play(!calm);
  }
  return { stored, viewer, put, play, home, calm, draws: Boolean(space) };
})();
