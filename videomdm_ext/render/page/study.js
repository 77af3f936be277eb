// A blind comparison: pairs in the order of one booklet, a vote once both have played to their end. What is kept and sent
// names pairs and sides alone; which motion is whose is not in this page.
(() => {
  "use strict";
  const { stored, viewer } = Viewer, study = document.getElementById("study"), root = document.body;
  const part = Object.fromEntries([...study.querySelectorAll("[data-study]")].map((found) => [found.dataset.study, found]));
  const votes = Object.fromEntries([...study.querySelectorAll("[data-vote]")].map((found) => [found.dataset.vote, found]));
  const heading = document.getElementById("study-pair"), place = `videomdm-study-${stored.study}`;
  const WAITING = "Answer once both have played to their end.";
  const OPEN = "Answer now, or watch again. Keys: a, b, t for no difference, Space to play and pause.";
  let state = restored() || fresh(), open = false, since = 0, delivery = "", sending = Promise.resolve();

  function fresh() {
    const bytes = crypto.getRandomValues(new Uint8Array(9)), named = /^#\d+$/.test(location.hash);
    const person = [...bytes.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const booklet = (named ? Number(location.hash.slice(1)) : bytes[8]) % stored.booklets.length;
    return { format: stored.format, version: stored.version, study: stored.study, person, booklet, votes: [] };
  }

  // What this browser kept, or null; browsers that keep nothing for files may throw.
  function restored() {
    try { return fitting(JSON.parse(localStorage.getItem(place))); } catch { return null; }
  }

  function fitting(found) {
    const alike = found && ["format", "version", "study"].every((name) => found[name] === stored[name]);
    const booklet = alike && stored.booklets[found.booklet];
    const good = booklet && Array.isArray(found.votes) && found.votes.length <= booklet.length
      && found.votes.every((vote, at) => vote.pair === stored.pairs[booklet[at][0]].id && vote.choice in votes);
    return good ? found : null;
  }

  const total = () => stored.booklets[state.booklet].length;
  const text = () => JSON.stringify(state, null, 1);

  function keep() {
    try { localStorage.setItem(place, JSON.stringify(state)); } catch { /* the file remains */ }
    if (!stored.collects) return;
    const body = text();
    delivery = "Sending your answers …";
    sending = sending.then(() => fetch("votes", { method: "POST", headers: { "Content-Type": "application/json" }, body }))
      .then((answer) => { if (!answer.ok) throw answer; delivery = "Your answers have arrived; there is nothing more to do."; })
      .catch(() => { delivery = "Your answers could not be sent. Save the file, and give it to the person who asked you."; })
      .finally(() => { part.sent.textContent = delivery; });
  }

  function step(name, focus) {
    study.dataset.step = name;
    for (const other of ["start", "pair", "end"]) part[other].hidden = other !== name;
    part.vote.hidden = name !== "pair";
    if (focus) focus.focus();
  }

  function start() {
    const done = state.votes.length;
    part.count.textContent = String(total());
    part.begin.textContent = done === total() ? "Go to my answers" : done ? `Go on with pair ${done + 1} of ${total()}` : "Start";
    part.begin.disabled = !Viewer.draws;
    if (!Viewer.draws) notice("This browser draws no 3D (WebGL is off). Please open the page in another browser.");
    step("start");
  }

  function notice(message) {
    part.stopped.textContent = message;
    part.stopped.hidden = !message;
    part.status.textContent = message;
  }

  function show() {
    const done = state.votes.length;
    if (done === total()) { finish(); return; }
    const [number, exchanged] = stored.booklets[state.booklet][done], pair = stored.pairs[number];
    const order = exchanged ? [1, 0] : [0, 1];
    allow(false);
    heading.textContent = `Pair ${done + 1} of ${total()}`;
    part.progress.max = total();
    part.progress.value = done;
    part.back.disabled = !done;
    step("pair", heading);
    Viewer.put({ caption: pair.prompt, view: null,
      tracks: order.map((at, side) => ({ ...stored.motions[pair.motions[at]], name: "AB"[side] })) });
    Viewer.home();
    Viewer.play(!Viewer.calm);
    since = performance.now();
  }

  function allow(may) {
    open = may;
    for (const button of Object.values(votes)) button.disabled = !may;
    part.hint.textContent = may ? OPEN : Viewer.calm ? `Press Play. ${WAITING}` : WAITING;
    part.status.textContent = may ? "Both have played. You may answer now." : "";
  }

  function vote(choice) {
    if (!open) return;
    const [number, exchanged] = stored.booklets[state.booklet][state.votes.length];
    const seconds = Math.round((performance.now() - since) / 100) / 10;
    state.votes.push({ pair: stored.pairs[number].id, exchanged: Boolean(exchanged), choice, seconds });
    keep();
    show();
  }

  function correct() {
    state.votes.pop();
    keep();
    show();
  }

  function finish() {
    Viewer.play(false);
    part.text.value = text();
    part.sent.textContent = stored.collects ? delivery
      : `All ${total()} pairs are answered. Save the file, and send it to the person who gave you this page.`;
    part.anew.disabled = !stored.collects;
    step("end", document.getElementById("study-end"));
  }

  function save() {
    const link = document.createElement("a"), at = URL.createObjectURL(new Blob([text()], { type: "application/json" }));
    Object.assign(link, { href: at, download: `answers-${stored.study}-${state.person}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(at), 10000);
    part.anew.disabled = false;
  }

  async function load() {
    let found = null;
    try { found = fitting(JSON.parse(await part.file.files[0].text())); } catch { /* no JSON */ }
    if (!found) { notice("This is no file of answers to this study. Choose another, or start."); return; }
    notice("");
    state = found;
    keep();
    show();
  }

  function anew() {
    state = fresh();
    try { localStorage.removeItem(place); } catch { /* nothing was kept */ }
    start();
    document.getElementById("study-start").focus();
  }

  // The player's other keys would let a person skip to the end.
  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const key = event.key.toLowerCase(), choice = { a: "a", b: "b", t: "tie" }[key];
    const typing = event.target.closest("textarea, input");
    if (study.dataset.step !== "pair" || typing || !" rd".includes(key)) event.stopPropagation();
    if (study.dataset.step === "pair" && choice && !event.repeat && !typing) vote(choice);
  }

  for (const question of [part.asked, document.getElementById("study-question")]) question.textContent = stored.question;
  study.querySelector("[data-part=scrub]").disabled = true;
  viewer.addEventListener("end", () => { if (!open && study.dataset.step === "pair") allow(true); });
  for (const [choice, button] of Object.entries(votes)) button.addEventListener("click", () => vote(choice));
  const acts = { begin: show, back: correct, last: correct, save, download: save, anew };
  for (const [name, act] of Object.entries(acts)) part[name].addEventListener("click", act);
  part.file.addEventListener("change", load);
  root.addEventListener("keydown", onKey, true);
  start();
})();
