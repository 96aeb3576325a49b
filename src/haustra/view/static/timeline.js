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
  const scale = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const probe = (name) => resolve(style, name);
  const [first, last] = range(timeline);
  const step = width / (last - first + 1);
  const at = (number) => ((number - first) / (last - first + 1)) * width;
  const bar = Math.max(1, step * timeline.step);
  const top = (score) => (1 - score) * height * 0.84;
  timeline.frame.forEach((number, index) => {
    const x = at(number);
    context.fillStyle = timeline.alarm[index] ? probe("--box") : probe("--quiet");
    context.fillRect(x, top(timeline.score[index]), bar, height * 0.84 - top(timeline.score[index]));
    if (timeline.polyp[index]) {
      context.fillStyle = probe("--truth");
      context.fillRect(x, height * BANDS.polyp, bar, height * 0.06);
    }
    const verdict = timeline.verdict[index];
    if (verdict === "miss" || verdict === "false") {
      context.fillStyle = probe(`--${verdict}`);
      context.fillRect(x, height * BANDS.verdict, bar, height * 0.07);
    }
  });
  context.strokeStyle = probe("--quiet");
  context.setLineDash([4, 4]);
  context.beginPath();
  context.moveTo(0, top(threshold));
  context.lineTo(width, top(threshold));
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = probe("--ink");
  context.fillRect(at(frame) + bar / 2 - 1, 0, 2, height);
}

let known = { scheme: null, colors: {} };

// A canvas does not understand light-dark(), but an element does.
export function resolve(style, name) {
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
