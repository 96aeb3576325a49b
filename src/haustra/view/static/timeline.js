// The timeline below the picture: scores, boxes shown, polyps in view, misses and false alarms.

const BANDS = { polyp: 0.86, verdict: 0.93 }; // rows below the scores, as shares of the height

function range(timeline) {
  if (timeline.num_frames !== null) return [0, Math.max(timeline.num_frames - 1, 1)];
  const last = timeline.frame.at(-1) ?? 1;
  return [timeline.frame[0] ?? 0, Math.max(last, (timeline.frame[0] ?? 0) + 300)];
}

export function frameAt(canvas, timeline, x) {
  const [first, last] = range(timeline);
  return Math.max(0, Math.round(first + (x / canvas.clientWidth) * (last - first)));
}

export function drawTimeline(canvas, timeline, { frame, threshold }) {
  const [context, width, height] = clear(canvas);
  const [first, last] = range(timeline);
  const step = width / (last - first + 1);
  const at = (number) => ((number - first) / (last - first + 1)) * width;
  const bar = Math.max(1, step * timeline.step);
  const top = (score) => (1 - score) * height * 0.84;
  timeline.frame.forEach((number, index) => {
    const x = at(number);
    context.fillStyle = timeline.alarm[index] ? resolve("--box") : resolve("--quiet");
    context.fillRect(x, top(timeline.score[index]), bar, height * 0.84 - top(timeline.score[index]));
    if (timeline.polyp[index]) {
      context.fillStyle = resolve("--truth");
      context.fillRect(x, height * BANDS.polyp, bar, height * 0.06);
    }
    const verdict = timeline.verdict[index];
    if (verdict === "miss" || verdict === "false") {
      context.fillStyle = resolve(`--${verdict}`);
      context.fillRect(x, height * BANDS.verdict, bar, height * 0.07);
    }
  });
  context.strokeStyle = resolve("--quiet");
  context.setLineDash([4, 4]);
  context.beginPath();
  context.moveTo(0, top(threshold));
  context.lineTo(width, top(threshold));
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = resolve("--ink");
  context.fillRect(at(frame) + bar / 2 - 1, 0, 2, height);
}

// Returns the context of an empty canvas in the screen's resolution, with its size in CSS pixels.
export function clear(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * devicePixelRatio, height * devicePixelRatio];
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  return [context, width, height];
}

let known = { scheme: null, colors: {} };

// A canvas does not understand light-dark(), but an element does.
export function resolve(name) {
  const scheme = matchMedia("(prefers-color-scheme: dark)").matches;
  if (known.scheme !== scheme) known = { scheme, colors: {} };
  if (!(name in known.colors)) {
    const element = document.createElement("i");
    element.style.color = `var(${name})`;
    document.body.append(element);
    known.colors[name] = getComputedStyle(element).color;
    element.remove();
  }
  return known.colors[name];
}
