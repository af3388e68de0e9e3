// A training run: its curve, its samples, and the probability of one word at each checkpoint.
import { Component, chip, count, el, exact, figures, percent, svg } from "./elements/parts.js";
import { ask, calm, soon } from "./ask.js";

const $ = (selector) => document.querySelector(selector);
const WIDE = 640;
const HIGH = 240;
const LEFT = 52;
const LOW = 28;

// A chart of lines over training steps, on a logarithmic axis. `lines`: {name, kind, points: [[step, value]]}.
// `levels`: {kind, value} of horizontal lines. `at`: the step of a vertical line.
function chart(label, lines, { top, unit, levels = [], at = null }) {
  const unitOf = 10 ** Math.floor(Math.log10(top / 3 || 1));
  const gap = [1, 2, 5, 10].map((factor) => factor * unitOf).find((each) => top / each <= 5);
  const roof = Math.max(gap * Math.ceil(top / gap - 1e-9), gap);
  const ticks = Array.from({ length: Math.round(roof / gap) + 1 }, (_, at) => at * gap);
  const last = Math.max(1, ...lines.flatMap((line) => line.points.map(([step]) => step)));
  const x = (step) => LEFT + ((WIDE - LEFT - 12) * Math.log2(step + 1)) / Math.log2(last + 1);
  const y = (value) => HIGH - LOW - (HIGH - LOW - 12) * Math.min(Math.max(value / roof, 0), 1);
  const rows = ticks.map((value) => svg("g", {}, svg("path", { class: "grid", d: `M${LEFT} ${y(value)}H${WIDE - 12}` }), svg("text", { x: LEFT - 6, y: y(value) + 4, class: "end" }, unit(value))));
  const steps = [0, ...Array.from({ length: 24 }, (_, power) => 2 ** power).filter((step) => step < 0.7 * last && Math.log2(step) % (last > 64 ? 2 : 1) === 0), last];
  const columns = steps.map((step) => svg("text", { x: x(step), y: HIGH - 8, class: step === last ? "end" : "middle" }, count(step)));
  const drawn = lines.flatMap(({ kind, points, name }) => [
    svg("path", { class: `curve ${kind}`, d: points.map(([step, value], number) => `${number ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("") }, svg("title", {}, name)),
    ...(kind !== "training" && points.length <= 40 ? points.map(([step, value]) => svg("circle", { class: `spot ${kind}`, cx: x(step), cy: y(value), r: step === at ? 6 : 3 }, svg("title", {}, `step ${count(step)}: ${unit(value)}`))) : []),
  ]);
  const level = ({ kind, value }) => svg("path", { class: kind, d: `M${LEFT} ${y(value)}H${WIDE - 12}` });
  const marks = [...levels.filter(({ value }) => value !== null).map(level), at === null ? null : svg("path", { class: "at", d: `M${x(at)} 6V${HIGH - LOW}` })];
  return svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label, class: "chart" }, ...rows, ...columns, ...marks, ...drawn);
}

export class StudioCurves extends Component {
  describe({ training, heldout, floor, forecast, samples, results }) {
    const bits = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(1));
    const all = [...training, ...heldout];
    if (!all.length) return [el("p", {}, "No step has been taken yet.")];
    const top = Math.max(...all.map(([, value]) => value));
    const now = (heldout.at(-1) ?? training.at(-1))[1];
    const expected = forecast?.bits_per_byte ?? null;
    const lines = [{ name: "text it learned from", kind: "training", points: training }, { name: "text it never saw", kind: "heldout", points: heldout }].filter((line) => line.points.length);
    const label = `Bits per byte by step: from ${bits(all[0][1])} to ${now.toFixed(3)}.`;
    const words = `It began by needing ${bits(training[0]?.[1] ?? all[0][1])} bits for each byte of text; now it needs ${now.toFixed(2)}.`;
    const bound = floor === null ? "" : ` No model of this language can get below ${floor.toFixed(2)} (the dotted line).`;
    const beside = expected === null ? "" : ` Before the start, ${expected.toFixed(2)} was forecast (the dashed line).`;
    const sample = samples.at(-1);
    return [
      el("p", {}, `${words}${bound}${beside}${results ? "" : " The run has not ended."}`),
      chart(label, lines, { top, unit: bits, levels: [{ kind: "floor", value: floor }, { kind: "forecast", value: expected }] }),
      el("p", { class: "muted" }, "Thin: the text it learned from. Thick: text it never saw. Lower is better; steps are spaced by doubling."),
      sample ? el("figure", { class: "sample" }, el("figcaption", { class: "muted" }, `What it wrote by itself after ${count(sample.step)} steps`), el("blockquote", {}, sample.text)) : null,
      this.exactly("Exact numbers", figures(["step", "held-out bits per byte"], heldout), ...samples.slice(0, -1).reverse().map(({ step, text }) => el("figure", { class: "sample" }, el("figcaption", { class: "muted" }, `after ${count(step)} steps`), el("blockquote", {}, text)))),
    ];
  }
}

export class StudioWord extends Component {
  #at = null; // index of the chosen checkpoint; null: the last one, also when more come

  describe({ prompt, continuation, tokens, moments, learned, gained, truth }) {
    const points = moments.map(({ step, probability }) => [step, probability]);
    const top = Math.max(...points.map(([, value]) => value), truth ?? 0, 1e-6);
    const place = el("output", {});
    const board = el("div", {});
    const slider = el("input", { type: "range", min: 0, max: moments.length - 1, value: Math.min(this.#at ?? Infinity, moments.length - 1), "aria-label": "Checkpoint" });
    const show = () => {
      const moment = moments[Number(slider.value)];
      place.textContent = `after ${count(moment.step)} ${moment.step === 1 ? "step" : "steps"}`;
      slider.setAttribute("aria-valuetext", `${place.textContent}: ${percent(moment.probability)}`);
      const label = `Probability by step: ${moments.map(({ step, probability }) => `${step}: ${percent(probability)}`).join(", ")}.`;
      board.replaceChildren(
        chart(label, [{ name: continuation, kind: "watched", points }], { top, unit: percent, levels: [{ kind: "floor", value: truth }], at: moment.step }),
        el("p", { class: "sentence" }, prompt, chip(continuation, "nw-chosen"), ` had ${percent(moment.probability)}.`),
        el("p", {}, "Most probable there: ", ...moment.top.flatMap((each, number) => [number ? ", " : "", chip(each.token), ` ${percent(each.probability)}`]), "."),
      );
    };
    const open = el("button", { type: "button", class: "quiet" }, "Watch it choose a word here");
    open.addEventListener("click", () => this.dispatchEvent(new CustomEvent("watch", { detail: moments[Number(slider.value)].step })));
    slider.addEventListener("input", () => {
      this.#at = Number(slider.value) === moments.length - 1 ? null : Number(slider.value);
      show();
    });
    show();
    const span = ({ after, by }) => `between step ${count(after)} and step ${count(by)}`;
    const when = learned === null ? "It has not been learned so far." : `Its probability gained most ${span(gained)}${gained.after === learned.after ? "" : `; it was multiplied most ${span(learned)}`}.`;
    return [
      el("p", {}, when, tokens.length > 1 ? ` It is ${tokens.length} tokens long; their probabilities are multiplied.` : "", truth === null ? "" : ` In this language its true probability is ${percent(truth)} (the dotted line).`),
      el("p", { class: "row" }, slider, place, open),
      board,
      this.exactly("Exact numbers", figures(["step", "probability", "rank of its first token", "most probable"], moments.map((each) => [each.step, each.probability, each.rank, chip(each.top[0].token)]))),
    ];
  }
}

customElements.define("studio-curves", StudioCurves);
customElements.define("studio-word", StudioWord);

// The view, built when it is first opened; while a run is under way it asks again every two seconds.
// `watch` opens a checkpoint in the view of one word.
export async function openLearning(guard, watch) {
  let timer = 0;
  let known = null;
  const run = () => $("#run").value;
  const drawWord = soon(() =>
    guard("word", async () => {
      $("#word-busy").hidden = false;
      const question = { run: run(), prompt: $("#watch-prompt").value, continuation: $("#watch-word").value };
      $("#watched").data = run() ? await ask("word", question).finally(() => ($("#word-busy").hidden = true)) : null;
      $("#word-busy").hidden = true;
    }),
  );
  // Suggested words of a known-truth language, until the reader types others.
  let typed = false;
  const suggest = (pairs) => {
    const buttons = pairs.map(({ prompt, continuation }) => {
      const button = el("button", { type: "button", class: "quiet" }, `${prompt.split(" ").at(-1)} → ${continuation.trim()}`);
      button.addEventListener("click", () => watchPair({ prompt, continuation }));
      return button;
    });
    $("#pairs").replaceChildren(...buttons);
    $("#pairs").hidden = !pairs.length;
    if (pairs.length && !typed) [$("#watch-prompt").value, $("#watch-word").value] = [pairs[0].prompt, pairs[0].continuation];
  };
  const watchPair = ({ prompt, continuation }) => {
    [$("#watch-prompt").value, $("#watch-word").value] = [prompt, continuation];
    typed = true;
    drawWord();
  };
  let kept = 0; // number of checkpoints of the run; the word is asked for again when it changes
  const drawCurves = soon(() =>
    guard("curves", async () => {
      const reply = run() ? await ask("curves", { run: run() }) : null;
      $("studio-curves").data = reply;
      if (kept === 0) suggest(reply?.watch ?? []);
      if (reply && reply.checkpoints.length !== kept) drawWord();
      kept = reply?.checkpoints.length ?? 0;
    }),
  );
  const drawAll = () => {
    kept = 0;
    drawCurves();
  };
  const look = async () => {
    clearTimeout(timer);
    const reply = await guard("runs", () => ask("runs"));
    if (!reply) return;
    const chosen = run();
    if (JSON.stringify(reply.runs) !== known) {
      known = JSON.stringify(reply.runs);
      $("#run").replaceChildren(...reply.runs.map((name) => el("option", {}, name)));
      $("#run").value = reply.runs.includes(reply.training?.run) ? reply.training.run : reply.runs.includes(chosen) ? chosen : reply.runs.at(-1) ?? "";
      drawAll();
    }
    $("#runs").hidden = $("#watching").hidden = !reply.runs.length;
    $("#no-runs").hidden = reply.runs.length > 0;
    showTraining(reply);
    if (reply.training && run() === reply.training.run) drawCurves();
    if (reply.training?.state !== "running") return;
    timer = setTimeout(look, 2000);
  };
  $("#run").addEventListener("change", drawAll);
  for (const name of ["#watch-prompt", "#watch-word"]) {
    const askSoon = calm(400, drawWord);
    $(name).addEventListener("input", () => {
      typed = true;
      askSoon();
    });
  }
  $("#again").addEventListener("click", drawAll);
  $("#watched").addEventListener("watch", (event) => watch(`${run()}@${event.detail}`, $("#watch-prompt").value));
  for (const name of ["#train", "#stop-training"]) $(name).addEventListener("click", async () => {
    const learn = { minutes: Number($("#minutes").value), ...($("#source").value ? { world: $("#source").value } : { text: $("#paste").value }) };
    const done = await guard("train", () => (name === "#train" ? ask("train", learn) : ask("stop", {})));
    if (done) look();
  });
  const first = await guard("runs", () => ask("runs"));
  $("#source").append(...(first?.worlds ?? []).map((name) => el("option", { value: name }, `a small made-up language: ${name}`)));
  $("#source").addEventListener("change", () => ($("#paste").parentElement.hidden = $("#source").value !== ""));
  look();
}

function showTraining({ training }) {
  $("#start").hidden = training === null;
  $("#cannot").hidden = training !== null;
  if (!training) return;
  const going = training.state === "running";
  $("#train").disabled = going;
  $("#stop-training").hidden = !going;
  const words = { none: "", running: `${training.run} is learning: `, done: `${training.run} has finished. To write with it in a terminal: `, stopped: `${training.run} was stopped. `, failed: `${training.run} ended with an error: ` };
  $("#progress").textContent = words[training.state] + training.said;
}
