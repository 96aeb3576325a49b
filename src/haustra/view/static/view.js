// The page: draws each frame with the boxes that came with it, and sends commands to the feed.

import { drawTimeline, frameAt } from "./timeline.js";

const element = (id) => document.getElementById(id);
const query = location.search; // holds the token, if there is one
const RECONNECT_MS = 1000;
const NOTICE_MS = 9000;
const SILENT_MS = 3000; // the server sends the state each second
const MIN_ALARM_SECONDS = 5; // with fewer seconds of frames, a rate of alarms means nothing
const DRIVE_KEYS = { KeyW: ["ahead", 1], KeyS: ["ahead", -1], KeyD: ["sideways", 1], KeyA: ["sideways", -1] };
const LOOK_PX = 220; // length of a drag that turns at full speed
const SEEK_CONTROLS = ["back", "previous-miss", "next-miss", "previous-false", "next-false", "speed"];
const SEEK_TITLES = new Map(SEEK_CONTROLS.map((id) => [id, element(id).title]));

let socket = null;
let state = null; // of the feed: what every page shows
let stateAtMs = 0, frameAtMs = 0;
let shown = null; // the header that is drawn
let bitmap = null;
let timeline = null;
let lastNotice = null;
let driving = { ahead: 0, sideways: 0, turn_right: 0, turn_down: 0 };
let lastDrawnMs = 0;
const drawnAges = [];

function ask(command) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

function connect() {
  const feed = new URL(`feed${query}`, document.baseURI);
  feed.protocol = feed.protocol.replace("http", "ws"); // wss if the page is https
  socket = new WebSocket(feed);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => (typeof event.data === "string" ? takeText(event.data) : takeFrame(event.data));
  socket.onopen = () => { lastNotice = null; element("refused").hidden = true; };
  socket.onclose = () => {
    takeState({ state: "lost", text: "connection lost, trying again" });
    setTimeout(connect, RECONNECT_MS);
  };
}

function takeText(text) {
  const message = JSON.parse(text);
  if (message.kind === "timeline") { timeline = message; showTimeline(); }
  if (message.kind === "state") takeState(message);
}

function takeState(message) {
  state = message;
  stateAtMs = performance.now();
  showState();
  if (shown) showNumbers();
  if (state.source) {
    element("source").textContent = state.source;
    document.title = `${state.source} · haustra`;
    showNotices(state.notices);
  }
}

// A server that hangs, or a network that is gone without a word, sends nothing.
setInterval(() => {
  const silentMs = performance.now() - stateAtMs;
  if (stateAtMs === 0 || silentMs < SILENT_MS) return;
  if (socket?.readyState === WebSocket.OPEN) {
    const text = `no answer from haustra for ${Math.round(silentMs / 1000)} s`;
    state = { state: "lost", text };
    showState();
    if (shown) showNumbers();
  }
}, 500);

// The picture is as good as new: a frame has come in the last second, or the user has paused.
const isAlive = () => state !== null && ["playing", "paused"].includes(state.state);
const isFresh = () => state?.state === "playing" && performance.now() - frameAtMs < 1500;

async function takeFrame(buffer) {
  const arrived = performance.now();
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const picture = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" }));
  bitmap?.close();
  [shown, bitmap, frameAtMs] = [header, picture, performance.now()];
  draw();
  // Estimate of the time that the frame was on its way: the last round trip, less the time to draw.
  const drawnMs = performance.now() - arrived;
  header.age_ms += drawnMs + Math.max(0, header.round_trip_ms - lastDrawnMs);
  lastDrawnMs = drawnMs;
  if (header.playing) { drawnAges.push(header.age_ms); if (drawnAges.length > 500) drawnAges.shift(); }
  socket.send("ack");
  show();
}

function draw() {
  if (!shown) return;
  const pictures = element("pictures");
  while (pictures.children.length < shown.detectors.length) {
    const figure = document.createElement("figure");
    figure.append(document.createElement("canvas"), document.createElement("figcaption"));
    figure.firstChild.setAttribute("role", "img");
    pictures.append(figure);
  }
  shown.detectors.forEach((detector, index) => {
    const [canvas, caption] = pictures.children[index].children;
    const [width, height] = shown.size_wh;
    const factor = Math.max(1, Math.ceil(720 / Math.max(width, height)));
    if (canvas.width !== width * factor || canvas.height !== height * factor) {
      canvas.width = width * factor;
      canvas.height = height * factor;
    }
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    if (element("truth").checked) {
      (shown.truth_px ?? []).forEach((box) => drawBox(context, box, factor, "#46aaff", "", [6, 4]));
    }
    detector.boxes_px.forEach((box, at) =>
      drawBox(context, box, factor, "#50ff78", detector.scores[at].toFixed(2), []));
    const count = detector.boxes_px.length;
    const boxes = count === 0 ? "no box" : count === 1 ? "1 box" : `${count} boxes`;
    const file = detector.file ? ` (${detector.file})` : "";
    caption.textContent = `${detector.name}${file}: ${boxes}`;
    canvas.setAttribute("aria-label", `frame ${shown.frame + 1}, ${boxes}`);
  });
}

function drawBox(context, [x0, y0, x1, y1], factor, color, text, dash) {
  const thickness = Math.max(2, context.canvas.width / 280);
  context.lineWidth = thickness;
  context.strokeStyle = color;
  context.setLineDash(dash.map((length) => length * thickness / 2));
  context.strokeRect(x0 * factor, y0 * factor, (x1 - x0) * factor, (y1 - y0) * factor);
  context.setLineDash([]);
  if (!text) return;
  const size = Math.max(13, context.canvas.width / 42);
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + 8;
  const left = Math.min(Math.max(0, x0 * factor), context.canvas.width - width);
  const top = Math.max(0, y0 * factor - size - 7);
  context.fillStyle = "#101010d0";
  context.fillRect(left, top, width, size + 6);
  context.fillStyle = color;
  context.fillText(text, left + 4, top + size);
}

const VERDICTS = { hit: "polyp flagged", miss: "polyp missed", false: "false alarm", clean: "clean" };

function showState() {
  const isRecording = shown !== null && shown.recording !== null;
  const text = state?.text ?? "";
  element("state").classList.toggle("recording", isRecording || !isAlive());
  element("state").title = text; // which may be cut
  element("state").textContent = isRecording ? `● recording, ${shown.recording} frames · ${text}` : text;
  // The last picture of a film is a picture of the film, and stays bright.
  document.body.classList.toggle("frozen", !isAlive() && !(state?.state === "ended" && !state.live));
  element("overlay").hidden = state === null || isAlive();
  element("overlay-text").textContent = text;
}

function show() {
  showState();
  const isRecording = shown.recording !== null;
  element("record").setAttribute("aria-pressed", isRecording);
  element("record-text").textContent = isRecording ? "Stop" : "Record";
  element("banner").hidden = !shown.detectors.some((detector) => detector.heuristic);
  const problems = shown.detectors.map((detector) => detector.problem).filter(Boolean);
  element("problem").hidden = problems.length === 0;
  element("problem").textContent = problems.join(" · ");
  showTransport();
  showSettings();
  showNumbers();
  showTimeline();
}

function showTransport() {
  element("play").textContent = shown.playing ? "Pause" : "Play";
  for (const [id, title] of SEEK_TITLES) {
    element(id).disabled = shown.live;
    element(id).title = shown.live ? `${shown.source} is live: it has only the present` : title;
  }
  element("autopilot").hidden = shown.autopilot === null;
  element("autopilot-text").textContent = shown.autopilot ? "Drive with WASD" : "Autopilot";
  element("drive-hint").hidden = !isDriving();
  const ofAll = shown.num_frames === null ? "" : ` of ${shown.num_frames}`;
  element("place").textContent = `frame ${shown.frame + 1}${ofAll}, ${shown.seconds.toFixed(1)} s`;
}

function showSettings() {
  const { settings } = shown;
  const values = { ...settings, hysteresis: settings.hysteresis ?? settings.objectness };
  for (const id of ["objectness", "iou", "hold_off_frames", "hysteresis"]) {
    const input = element(id);
    if (document.activeElement !== input || !input.matches(":active")) input.value = values[id];
    element(`${id}-value`).textContent = id === "hold_off_frames" ? values[id] : Number(values[id]).toFixed(2);
  }
}

function showNumbers() {
  element("rate").textContent = isFresh() ? shown.frames_per_s.toFixed(1) : "–";
  element("age").textContent = isFresh() ? `${Math.round(shown.age_ms)} ms` : "–";
  element("latency").textContent = shown.detectors
    .map((d) => `${d.p50_ms.toFixed(0)} / ${d.p95_ms.toFixed(0)} ms`).join("\n");
  element("dropped").textContent = shown.dropped;
  element("verdict").textContent = VERDICTS[shown.verdict] ?? "no label";
  element("verdict").className = shown.verdict ?? "";
}

function showNotices(notices) {
  // A new page does not repeat earlier notices.
  if (lastNotice === null) { lastNotice = notices.at(-1)?.id ?? 0; return; }
  for (const notice of notices.filter(({ id }) => id > lastNotice)) {
    lastNotice = notice.id;
    const list = element("notices");
    if (list.lastChild?.textContent === notice.text) list.lastChild.remove();
    const item = document.createElement("li");
    item.textContent = notice.text;
    list.append(item);
    setTimeout(() => item.remove(), NOTICE_MS);
  }
}

function showTimeline() {
  if (!timeline || !shown) return;
  drawTimeline(element("timeline"), timeline, { frame: shown.frame, threshold: shown.settings.objectness });
  const strip = element("timeline");
  strip.setAttribute("aria-valuemax", (timeline.num_frames ?? shown.frame + 1) - 1);
  strip.setAttribute("aria-valuenow", shown.frame);
  strip.setAttribute("aria-valuetext", element("place").textContent);
  strip.classList.toggle("fixed", shown.live);
  const seconds = timeline.num_seen / Math.max(rateOf(), 0.1);
  element("alarms").textContent = seconds >= MIN_ALARM_SECONDS ? (60 * timeline.num_alarms / seconds).toFixed(1) : "–";
}

function rateOf() {
  return shown.seconds > 0 && shown.frame > 0 ? shown.frame / shown.seconds : 10;
}

// Controls.

const toggle = {
  play: () => ask({ do: shown?.playing ? "pause" : "play" }),
  truth: () => { element("truth").checked = !element("truth").checked; draw(); },
  panel: () => document.body.classList.toggle("wide"),
  record: () => ask({ do: "record", on: shown?.recording === null }),
  autopilot: () => { if (shown?.autopilot !== null) ask({ do: "autopilot", on: !shown.autopilot }); },
  keys: () => { const keys = element("keys"); keys.open ? keys.close() : keys.showModal(); },
};

function snapshot() {
  const canvas = element("pictures").querySelector("canvas");
  canvas?.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `haustra_frame_${String(shown.frame).padStart(5, "0")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/png");
}

const isDriving = () => shown?.autopilot === false;

const find = (verdict, backward = false) => ask({ do: "find", verdict, backward });

function drive(values) {
  driving = { ...driving, ...values };
  ask({ do: "drive", ...driving });
}

element("play").onclick = toggle.play;
element("back").onclick = () => ask({ do: "step", by: -1 });
element("forward").onclick = () => ask({ do: "step", by: 1 });
for (const verdict of ["miss", "false"]) {
  element(`next-${verdict}`).onclick = () => find(verdict);
  element(`previous-${verdict}`).onclick = () => find(verdict, true);
}
element("autopilot").onclick = toggle.autopilot;
element("record").onclick = toggle.record;
element("snapshot").onclick = snapshot;
element("keys-button").onclick = toggle.keys;
element("truth").onchange = draw;
element("speed").onchange = (event) => ask({ do: "set", speed: Number(event.target.value) });
for (const id of ["objectness", "iou", "hysteresis"]) {
  element(id).oninput = (event) => ask({ do: "set", [id]: Number(event.target.value) });
}
element("hold_off_frames").oninput = (event) => ask({ do: "set", hold_off_frames: Number(event.target.value) });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  if (event.target.matches("select, input[type=range]") && event.code.startsWith("Arrow")) return;
  if (isDriving() && event.code in DRIVE_KEYS && !event.shiftKey) {
    const [axis, sign] = DRIVE_KEYS[event.code];
    if (driving[axis] !== sign) drive({ [axis]: sign });
    event.preventDefault();
    return;
  }
  if (event.repeat && !event.code.startsWith("Arrow")) return;
  const done = {
    ArrowLeft: () => ask({ do: "step", by: -1 }), ArrowRight: () => ask({ do: "step", by: 1 }),
    KeyG: toggle.truth, KeyH: toggle.panel, KeyR: toggle.record, KeyS: snapshot, KeyP: toggle.autopilot,
    KeyM: () => find("miss", event.shiftKey), KeyF: () => find("false", event.shiftKey),
  }[event.code] ?? (event.key === "?" ? toggle.keys : null)
    ?? (event.code === "Space" && !event.target.matches("button, select, input") ? toggle.play : null);
  if (done) { done(); event.preventDefault(); }
});

document.addEventListener("keyup", (event) => {
  const [axis, sign] = DRIVE_KEYS[event.code] ?? [];
  if (axis && driving[axis] === sign) drive({ [axis]: 0 });
});

let dragFrom = null;
element("pictures").addEventListener("pointerdown", (event) => {
  if (isDriving()) { dragFrom = [event.clientX, event.clientY]; event.target.setPointerCapture(event.pointerId); }
});
element("pictures").addEventListener("pointermove", (event) => {
  if (!dragFrom) return;
  const share = (pixels) => Math.max(-1, Math.min(1, pixels / LOOK_PX));
  drive({ turn_right: share(event.clientX - dragFrom[0]), turn_down: share(event.clientY - dragFrom[1]) });
});
for (const kind of ["pointerup", "pointercancel"]) {
  element("pictures").addEventListener(kind, () => {
    if (dragFrom) { dragFrom = null; drive({ turn_right: 0, turn_down: 0 }); }
  });
}
window.addEventListener("blur", () => {
  if (isDriving()) drive({ ahead: 0, sideways: 0, turn_right: 0, turn_down: 0 });
});

const strip = element("timeline");
strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); scrub(event); });
strip.addEventListener("pointermove", (event) => { if (event.buttons) scrub(event); });
function scrub(event) {
  if (!timeline || shown?.live) return;
  ask({ do: "seek", frame: frameAt(strip, timeline, event.offsetX) });
}

element("training").href = `training${query}`;
new ResizeObserver(showTimeline).observe(strip);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTimeline);
connect();

// For tests and the console.
window.haustra = { get shown() { return shown; }, get state() { return state; }, get timeline() { return timeline; }, drawnAges, ask };
