// Follows the run folder of a training: loss, average precision, validation images.

import { clear, resolve } from "./timeline.js";

const element = (id) => document.getElementById(id);
const EVERY_MS = 2000;
let gallery = null;

async function follow() {
  try {
    const values = await (await fetch(`training/values${location.search}`)).json();
    show(values);
    element("state").classList.remove("lost");
  } catch {
    element("state").textContent = "connection lost, trying again";
    element("state").classList.add("lost");
  }
  setTimeout(follow, EVERY_MS);
}

function show({ folder, exists, epochs, num_epochs: numEpochs, seconds_ago: secondsAgo, gallery: stamp }) {
  element("source").textContent = folder ?? "no training";
  const last = epochs.at(-1);
  element("charts").hidden = !last;
  element("empty").hidden = Boolean(last);
  if (!last) showEmpty(folder, exists);
  const ofAll = numEpochs === null ? "" : ` of ${numEpochs}`;
  element("state").textContent = last
    ? `epoch ${last.epoch}${ofAll}, loss ${last.loss.toFixed(3)}, ${ago(secondsAgo)}` : "no epoch yet";
  element("validation").hidden = stamp === null;
  if (last) drawCharts(epochs);
  const validated = epochs.findLast((row) => row.val);
  element("caption").textContent = "Validation images: labels in blue, boxes found in green"
    + (validated ? `; epoch ${validated.epoch}` : "");
  if (stamp !== null && stamp !== gallery) {
    gallery = stamp;
    const mark = location.search ? `${location.search}&` : "?";
    element("gallery").src = `training/gallery${mark}at=${stamp}`;
  }
}

function showEmpty(folder, exists) {
  const [title, text, command] = folder === null
    ? ["No training to show", "Name the run folder of a training, or weights with a run folder beside them:",
      "haustra view --training checkpoints/tinydet.bin.run"]
    : exists
      ? ["Waiting for the first epoch", `The curves appear when the first epoch of ${folder} has ended. If no training runs, start one:`,
        "haustra train --manifest data/v1/manifest.json --checkpoint-out checkpoints/tinydet.bin"]
      : [`${folder} does not exist`, "haustra train writes this folder beside its weights. To show another training, name its run folder:",
        "haustra view --training checkpoints/tinydet.bin.run"];
  element("empty-title").textContent = title;
  element("empty-text").textContent = text;
  element("empty-command").textContent = command;
}

function drawCharts(epochs) {
  const scores = (name) => points(epochs, (row) => row.val?.average_precision?.[name]);
  drawChart(element("loss"), "training loss", [["loss", "--truth", points(epochs, (row) => row.loss)]]);
  drawChart(element("precision"), "validation", [
    ["AP50", "--box", scores("ap50")], ["AP50-95", "--miss", scores("ap50_95")]], 1);
}

function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3600)} h ago`;
}

function points(epochs, read) {
  return epochs.map((row) => [row.epoch, read(row)]).filter(([, value]) => typeof value === "number");
}

function drawChart(canvas, title, lines, top = null) {
  const [context, width, height] = clear(canvas);
  const all = lines.flatMap(([, , line]) => line);
  const highest = top ?? Math.max(...all.map(([, y]) => y), 1e-9);
  const lastEpoch = Math.max(...all.map(([x]) => x), 2);
  const [left, right, upper, lower] = [44, width - 12, 30, height - 26];
  const x = (epoch) => left + ((epoch - 1) / (lastEpoch - 1)) * (right - left);
  const y = (value) => lower - (value / highest) * (lower - upper);
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = context.strokeStyle = resolve("--quiet");
  for (const share of [0, 0.5, 1]) {
    context.globalAlpha = 0.3;
    context.beginPath();
    context.moveTo(left, y(share * highest));
    context.lineTo(right, y(share * highest));
    context.stroke();
    context.globalAlpha = 1;
    context.fillText((share * highest).toPrecision(2), 6, y(share * highest) + 4);
  }
  context.fillText("1", x(1), height - 8);
  context.fillText(`epoch ${lastEpoch}`, right - 54, height - 8);
  context.fillStyle = resolve("--ink");
  context.fillText(all.length ? title : `${title}: nothing yet`, left, 18);
  const latest = lines.filter(([, , line]) => line.length)
    .map(([name, , line]) => `${name} ${line.at(-1)[1].toPrecision(3)} at epoch ${line.at(-1)[0]}`);
  canvas.setAttribute("aria-label", `${title}: ${latest.join(", ") || "nothing yet"}`);
  lines.forEach(([name, color, line], index) => {
    context.fillStyle = context.strokeStyle = resolve(color);
    context.fillText(name, right - 60 - 70 * index, 18);
    context.lineWidth = 2;
    context.beginPath();
    line.forEach(([epoch, value], at) => context[at ? "lineTo" : "moveTo"](x(epoch), y(value)));
    context.stroke();
    if (line.length < 40) line.forEach(([epoch, value]) => context.fillRect(x(epoch) - 2.5, y(value) - 2.5, 5, 5));
  });
}

element("view").href = `./${location.search}`;
follow();
