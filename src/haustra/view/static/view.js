// The page: draws each frame with the boxes that came with it, and asks the feed for things.

import { drawTimeline, frameAt } from "/static/timeline.js";

const element = (id) => document.getElementById(id);
const query = location.search; // carries the token, where there is one
const RECONNECT_MS = 1000;
const NOTICE_MS = 9000;
const SECONDS_TO_TELL = 5; // fewer seconds of frames tell no rate of alarms
const DRIVE_KEYS = { KeyW: ["ahead", 1], KeyS: ["ahead", -1], KeyD: ["sideways", 1], KeyA: ["sideways", -1] };
const LOOK_PX = 220; // a drag of this length turns at full speed

let socket = null;
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
  socket = new WebSocket(`ws://${location.host}/feed${query}`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => (typeof event.data === "string" ? takeText(event.data) : takeFrame(event.data));
  socket.onopen = () => { lastNotice = null; element("state").classList.remove("lost"); };
  socket.onclose = () => {
    element("state").textContent = "connection lost, trying again";
    element("state").classList.add("lost");
    setTimeout(connect, RECONNECT_MS);
  };
}

function takeText(text) {
  const message = JSON.parse(text);
  if (message.kind === "timeline") { timeline = message; showTimeline(); }
}

async function takeFrame(buffer) {
  const arrived = performance.now();
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const picture = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" }));
  bitmap?.close();
  [shown, bitmap] = [header, picture];
  draw();
  // The way here took no longer than the last frame's way here and back, less what was done between.
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
    const told = count === 0 ? "no box" : count === 1 ? "1 box" : `${count} boxes`;
    const file = detector.file ? ` (${detector.file})` : "";
    caption.textContent = `${detector.name}${file}: ${told}`;
    canvas.setAttribute("aria-label", `frame ${shown.frame}, ${told}`);
  });
}

function drawBox(context, [x0, y0, x1, y1], factor, colour, text, dash) {
  const thickness = Math.max(2, context.canvas.width / 280);
  context.lineWidth = thickness;
  context.strokeStyle = colour;
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
  context.fillStyle = colour;
  context.fillText(text, left + 4, top + size);
}

const VERDICTS = { hit: "polyp flagged", miss: "polyp missed", false: "false alarm", clean: "clean" };

function show() {
  const { settings, detectors } = shown;
  element("source").textContent = shown.source;
  const state = element("state");
  state.classList.toggle("recording", shown.recording !== null);
  state.textContent = shown.recording !== null ? `● recording, ${shown.recording} frames`
    : shown.playing ? (shown.live ? "live" : "playing") : "paused";
  const heuristic = detectors.some((detector) => detector.heuristic);
  element("banner").hidden = !heuristic;
  element("banner").textContent = heuristic
    ? "No weights: a colour and shape heuristic draws these boxes, no trained detector." : "";
  element("play").textContent = shown.playing ? "pause" : "play";
  for (const id of ["back", "next-miss", "next-false"]) element(id).disabled = shown.live;
  element("autopilot").hidden = shown.autopilot === null;
  element("autopilot").textContent = shown.autopilot ? "drive" : "autopilot";
  element("place").textContent = shown.num_frames === null
    ? `frame ${shown.frame}, ${shown.seconds.toFixed(1)} s`
    : `frame ${shown.frame + 1} of ${shown.num_frames}, ${shown.seconds.toFixed(1)} s`;
  element("record").setAttribute("aria-pressed", shown.recording !== null);
  const values = { ...settings, hysteresis: settings.hysteresis ?? settings.objectness };
  for (const id of ["objectness", "iou", "hold_off_frames", "hysteresis"]) {
    const input = element(id);
    if (document.activeElement !== input || !input.matches(":active")) input.value = values[id];
    element(`${id}-value`).textContent = id === "hold_off_frames" ? values[id] : Number(values[id]).toFixed(2);
  }
  element("speed").disabled = shown.live;
  element("rate").textContent = shown.playing ? shown.frames_per_s.toFixed(1) : "–";
  element("age").textContent = shown.playing ? `${Math.round(shown.age_ms)} ms` : "–";
  element("latency").textContent = detectors.map((d) => `${d.p50_ms.toFixed(0)} / ${d.p95_ms.toFixed(0)} ms`).join("\n");
  element("dropped").textContent = shown.dropped;
  element("verdict").textContent = VERDICTS[shown.verdict] ?? "no label";
  showNotices(shown.notices);
  showTimeline();
}

function showNotices(notices) {
  // What was told before this page came is old news.
  if (lastNotice === null) { lastNotice = notices.at(-1)?.id ?? 0; return; }
  for (const notice of notices.filter(({ id }) => id > lastNotice)) {
    const item = document.createElement("li");
    item.textContent = notice.text;
    element("notices").append(item);
    setTimeout(() => item.remove(), NOTICE_MS);
    lastNotice = notice.id;
  }
}

function showTimeline() {
  if (!timeline || !shown) return;
  drawTimeline(element("timeline"), timeline, { frame: shown.frame, threshold: shown.settings.objectness });
  const strip = element("timeline");
  strip.setAttribute("aria-valuemax", (timeline.num_frames ?? shown.frame + 1) - 1);
  strip.setAttribute("aria-valuenow", shown.frame);
  const begins = timeline.alarm.filter((on, at) => on && !timeline.alarm[at - 1]).length;
  const seconds = timeline.frame.length / Math.max(rateOf(), 0.1);
  element("alarms").textContent = seconds >= SECONDS_TO_TELL ? (60 * begins / seconds).toFixed(1) : "–";
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

function drive(values) {
  driving = { ...driving, ...values };
  ask({ do: "drive", ...driving });
}

element("play").onclick = toggle.play;
element("back").onclick = () => ask({ do: "step", by: -1 });
element("forward").onclick = () => ask({ do: "step", by: 1 });
element("next-miss").onclick = () => ask({ do: "find", verdict: "miss" });
element("next-false").onclick = () => ask({ do: "find", verdict: "false" });
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
    KeyM: element("next-miss").onclick, KeyF: element("next-false").onclick,
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

element("training").href = `/training${query}`;
new ResizeObserver(showTimeline).observe(strip);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTimeline);
connect();

// For tests, and for whoever looks from the console.
window.haustra = { get shown() { return shown; }, get timeline() { return timeline; }, drawnAges, ask };
