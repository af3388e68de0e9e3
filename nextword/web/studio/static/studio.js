// The studio: seven stations about the next word of the text. All numbers come from the server; this file keeps what
// the reader typed and chose, and which stations are open.
import "./elements/tokens.js";
import "./elements/distribution.js";
import "./elements/draw.js";
import "./elements/lens.js";
import "./elements/why.js";
import "./elements/sources.js";
import "./elements/merges.js";
import "./elements/attention.js";
import "./beside.js";
import "./elements/leave-one-out.js";
import "./elements/bigrams.js";
import { chip, count, el, percent, visible } from "./elements/parts.js";
import { fillSides, openCompare } from "./compare.js";
import { fillModels } from "./models.js";
import { openLearning } from "./learning.js";
import { ask, askPage, calm, soon } from "./ask.js";
import { say } from "./sentences.js";

const $ = (selector) => document.querySelector(selector);
const BRANCHES = 4; // texts: other continuations of the prompt that are kept
const state = { model: null, sliders: [], words: [], branches: [], at: 0, number: null, contrast: null, next: null, tokens: null, why: null, leftOut: null };

const question = () => ({ model: state.model?.name ?? null, prompt: $("#prompt").value, chosen: state.words.slice(0, state.at).map((word) => word.id) });
const settings = () => Object.fromEntries(state.sliders.map(({ name }) => [name, Number($(`#${name}`).value)]));
const drawing = () => ({ ...question(), ...settings(), seed: seed(), ...(state.number === null ? {} : { number: state.number }) });
const seed = () => (/^\d{1,15}$/.test($("#seed").value.trim()) ? Number($("#seed").value) : 0);

// Errors by the name of the question; an answer to the same question removes its error.
const faults = new Map();

function showFaults() {
  $("#error").textContent = [...new Set(faults.values())].join(" ");
  $("#error").hidden = faults.size === 0;
}

async function guarded(place, act) {
  try {
    const answer = await act();
    faults.delete(place);
    if (place === "distribution") $("main").hidden = false;
    return answer;
  } catch (error) {
    faults.set(place, error.message);
    if (place === "distribution" && error.refused) $("main").hidden = true; // the stations still show another text
    writing(false);
    return null;
  } finally {
    showFaults();
  }
}

// Stations 3, 4, 5: cheap, so they are asked for at every movement of a slider.
const drawDistribution = soon(() =>
  guarded("distribution", async () => {
    const late = setTimeout(busy, 300, "#distribution", true);
    const reply = await ask("distribution", drawing()).finally(() => {
      clearTimeout(late);
      busy("#distribution", false);
    });
    const before = state.next;
    state.next = reply;
    $("nw-distribution").data = reply.distribution;
    $("nw-draw").data = reply.draw;
    $("#number").value = state.number ?? reply.draw.number; // a late answer does not move the slider under the reader's hand
    $("#number").setAttribute("aria-valuetext", `${reply.draw.number.toFixed(4)}: ${visible(reply.draw.token.token)}`);
    $("#number").disabled = reply.draw.how === "greedy";
    $("#fate").hidden = state.number === null;
    $("#word .say").replaceChildren(shortened(textSoFar()), chip(reply.draw.token.token, "nw-chosen"));
    sentences();
    $("#ask-when").hidden = state.model.checkpoint === null || !reply.is_text;
    if (before?.draw.token.id !== reply.draw.token.id) openStations();
  }),
);

const drawTokens = soon(() =>
  guarded("tokens", async () => {
    state.tokens = await ask("tokens", question());
    $("nw-tokens").data = state.tokens;
    if ($("#merging").open) $("nw-merges").data = state.tokens;
    sentences();
  }),
);

// Stations 2, 6, 7: expensive, so they are asked for only while they are open.
const drawLayers = soon(() =>
  guarded("look", async () => {
    busy("#layers", true);
    $("nw-attention").data = await ask("look", question()).finally(() => busy("#layers", false));
    stay();
  }),
);

const drawLeaveOneOut = soon(() =>
  guarded("leave_one_out", async () => {
    if (!state.next) return;
    busy("#leaving", true);
    const request = { ...question(), token: state.next.draw.token.id };
    const reply = await ask("leave_one_out", request).finally(() => busy("#leaving", false));
    if (JSON.stringify({ ...question(), token: state.next?.draw.token.id }) !== JSON.stringify(request)) return;
    state.leftOut = reply;
    $("nw-leave-one-out").data = reply;
    sentences();
    stay();
  }),
);

const drawWhy = soon(() =>
  guarded("why", async () => {
    if (!state.next) return;
    busy("#apart", true);
    const token = state.next.draw.token.id;
    const contrast = state.contrast === token ? null : state.contrast;
    const reply = await ask("why", { ...question(), token, contrast }).finally(() => busy("#apart", false));
    contrasts(token, contrast);
    state.why = reply;
    $("nw-why").tokens = reply.prompt.tokens;
    $("nw-why").data = reply.why;
    $("nw-lens").data = reply.lens;
    showSources(reply.sources, reply.bigrams);
    $("studio-beside").data = null;
    heads(reply.why);
    sentences();
    stay();
  }),
);

// Only a checkpoint has a history.
const drawWhen = soon(() =>
  guarded("when", async () => {
    if (!state.next) return;
    const question = { run: state.model.checkpoint.run, prompt: textSoFar(), continuation: state.next.draw.token.token };
    busy("#where", true);
    const reply = await ask("word", question).finally(() => busy("#where", false));
    if (state.next?.draw.token.token === reply.continuation && textSoFar() === reply.prompt) $("#when").data = reply;
  }),
);

function busy(station, on) {
  $(`${station} .busy`).hidden = !on;
}

function openStations() {
  if ($("#layers > details").open) drawLayers();
  if ($("#leaving").open) drawLeaveOneOut();
  if ($("#apart").open) drawWhy();
  else showSources(null);
  $("#when").data = null;
}

function showSources(sources, bigrams = null) {
  $("nw-sources").data = sources;
  $("nw-bigrams").data = bigrams;
  $("#ask-where").hidden = sources !== null;
}

function contrasts(token, contrast) {
  const others = state.next.distribution.rows.filter((row) => row.id !== token);
  const options = [el("option", { value: "" }, "what the model expected on average"), ...others.map((row) => el("option", { value: row.id }, `${visible(row.token)} (${percent(row.probability)})`))];
  $("#contrast").replaceChildren(...options);
  $("#contrast").value = contrast ?? "";
  $(".contrast").hidden = false;
}

// A button for each head among the components, which ablates the head.
function heads(why) {
  const named = new Map();
  for (const { layer, head } of why.components) if (layer !== undefined && head !== undefined) named.set(`${layer}.${head}`, [layer, head]);
  if (!named.size) {
    const flat = why.claims.heads.flatMap((row, layer) => row.map((share, head) => [Math.abs(share), layer, head])).sort((a, b) => b[0] - a[0]);
    for (const [, layer, head] of flat.slice(0, 3)) named.set(`${layer}.${head}`, [layer, head]);
  }
  const buttons = [...named].map(([name, [layer, head]]) => {
    const button = el("button", { type: "button", class: "quiet", "aria-pressed": "false" }, `Remove head ${name}`);
    button.addEventListener("click", () => guarded("ablate", async () => {
      $("studio-beside").data = await ask("ablate", { ...drawing(), layer, head });
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    }));
    return button;
  });
  $("#heads").replaceChildren(el("span", { class: "muted" }, "Do not believe it? Take a head out and run the model again:"), ...buttons);
}

// The text and its timeline.
function textSoFar() {
  return $("#prompt").value + (state.words[state.at - 1]?.written ?? "");
}

function shortened(text) {
  return text.length > 90 ? `…${text.slice(-90)}` : text;
}

function drawText() {
  const done = state.words[state.at - 1]?.written ?? "";
  const all = state.words.at(-1)?.written ?? "";
  const later = all.startsWith(done) ? all.slice(done.length) : "";
  $("#written").replaceChildren(...(all ? [$("#prompt").value, el("b", {}, done), el("span", { class: "later" }, later)] : []));
  $("#written").scrollTop = $("#written").scrollHeight;
  $("#legend").hidden = !state.words.length;
  showLatest(state.words[state.at - 1]);
  showBranches();
  const items = state.words.map((word, at) => {
    const words = `${visible(word.token)}, ${percent(word.probability)}, ${word.surprisal.toFixed(1)} bits of surprisal${word.by_hand ? ", chosen by hand" : ""}`;
    const button = el("button", { type: "button", title: words, "aria-label": words }, visible(word.token));
    button.style.setProperty("--surprisal", `${Math.min(100, 12 * word.surprisal).toFixed(0)}%`);
    button.style.setProperty("--line", `${Math.min(5, word.surprisal / 2).toFixed(1)}px`);
    button.addEventListener("click", () => goTo(at));
    return el("li", { class: at > state.at ? "later" : null, "aria-current": at === state.at ? "step" : null }, button);
  });
  $("#timeline").replaceChildren(...items);
}

// The word that was added last, and a button that explains it.
function showLatest(word) {
  $("#latest").hidden = !word;
  if (!word) return;
  const others = word.rank === 2 ? "one other was more probable" : `${count(word.rank - 1)} others were more probable`;
  $("#latest span").replaceChildren("The model gave ", chip(word.token, "nw-chosen"), ` ${percent(word.probability)}; ${word.rank === 1 ? "no other had more" : others}.${word.by_hand ? " You chose it." : ""}`);
}

function arrive() {
  faults.clear();
  state.contrast = null;
  state.next = state.why = state.leftOut = null;
  drawText();
  drawTokens();
  return drawDistribution();
}

function goTo(at) {
  writing(false);
  state.at = at;
  state.number = state.words[at]?.by_hand ? state.words[at].number : null;
  $("#timeline").children[at]?.querySelector("button").focus();
  return arrive().then(() => $("#timeline").children[at]?.querySelector("button").focus());
}

let stepping = false;

async function nextWord() {
  if (stepping) return false;
  stepping = true;
  const before = JSON.stringify(question());
  const word = await guarded("next", () => ask("next", drawing())).finally(() => (stepping = false));
  if (!word || JSON.stringify(question()) !== before) return false;
  if (state.words[state.at]?.id === word.id) state.words[state.at] = word;
  else {
    if (state.words.length > state.at) keepBranch();
    state.words = [...state.words.slice(0, state.at), word];
  }
  state.at += 1;
  state.number = state.words[state.at]?.by_hand ? state.words[state.at].number : null;
  await arrive();
  if (word.ends) $("#word .say").append(el("span", { class: "muted" }, " The model ended its text here."));
  return !word.ends && $("#error").hidden;
}

// Keep the text so far as a branch, unless a kept branch begins with the same words.
function keepBranch() {
  const ids = (words) => words.map((word) => word.id).join() + ",";
  const known = state.branches.filter((words) => !ids(state.words).startsWith(ids(words)));
  state.branches = known.some((words) => ids(words).startsWith(ids(state.words))) ? known : [state.words, ...known].slice(0, BRANCHES);
}

function takeBranch(words) {
  writing(false);
  state.branches = state.branches.filter((each) => each !== words);
  keepBranch();
  state.words = words;
  state.at = words.length;
  state.number = null;
  arrive();
}

function showBranches() {
  $("#branches").hidden = !state.branches.length;
  const buttons = state.branches.map((words) => {
    const button = el("button", { type: "button", class: "quiet" }, `…${visible(words.at(-1).written.slice(-60))}`);
    button.addEventListener("click", () => takeBranch(words));
    return button;
  });
  $("#branches").replaceChildren(el("span", { class: "muted" }, "It also went:"), ...buttons);
}

function forget() {
  writing(false);
  state.words = [];
  state.branches = [];
  state.at = 0;
  state.number = null;
}

function begin() {
  forget();
  arrive();
}

// Write word after word, at the speed of the slider.
let pace = 0;

function writing(on) {
  clearTimeout(pace);
  pace = 0;
  $("#on").setAttribute("aria-pressed", String(on));
  $("#on").textContent = on ? "Stop" : "Write on";
  $("#latest span").setAttribute("aria-live", on ? "off" : "polite"); // a screen reader cannot keep up
  if (on) pace = setTimeout(write);
}

async function write() {
  const mine = pace;
  const more = await nextWord();
  if (pace !== mine) return;
  if (more) pace = setTimeout(write, 1000 / Number($("#speed").value));
  else writing(false);
}

// The sentences of the stations, and slow motion, which shows one station after another.
const STATIONS = ["tokens", "layers", "distribution", "draw", "word", "why", "where"];
let station = 0;

function sentences() {
  if (!state.next) return;
  const expert = $("#expert").checked;
  for (const name of STATIONS) if (name !== "word") $(`#${name} .say`).textContent = say(name, state, expert);
  if ($("#slow").checked) speak();
}

function speak() {
  const words = say(STATIONS[station], state, $("#expert").checked);
  if ($("#spoken").textContent !== words) $("#spoken").textContent = words;
}

function showStation(number) {
  station = number;
  for (const [at, name] of STATIONS.entries()) $(`#${name}`).classList.toggle("now", $("#slow").checked && at === number);
  if (!$("#slow").checked) return;
  const name = STATIONS[number];
  for (const part of { layers: ["#layers > details"], why: ["#leaving", "#apart"] }[name] ?? []) $(part).open = true;
  stay();
  $("#onward").textContent = number === STATIONS.length - 1 ? "Add the word and begin again" : `Go on (${number + 1} of ${STATIONS.length})`;
  speak();
}

// In slow motion, keep the current station in view, also when one above it has grown.
function stay() {
  if (!$("#slow").checked) return;
  $(`#${STATIONS[station]}`).scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
}

async function onward() {
  if (station === STATIONS.length - 1) await nextWord();
  showStation((station + 1) % STATIONS.length);
}

function slow(on) {
  $("#slow").checked = on;
  document.documentElement.classList.toggle("slow", on);
  if (on) writing(false);
  showStation(0);
}

function expert() {
  document.documentElement.classList.toggle("expert", $("#expert").checked);
  for (const part of document.querySelectorAll("nw-tokens, nw-lens, nw-distribution, nw-draw, nw-why, nw-sources, nw-attention, nw-leave-one-out, nw-bigrams")) part.toggleAttribute("expert", $("#expert").checked);
  sentences();
}

async function share() {
  const page = await guarded("receipt", () => askPage("receipt", drawing()));
  if (!page) return;
  const link = el("a", { href: URL.createObjectURL(page), download: "receipt.html" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The sliders, with the ranges, first values and descriptions that the server has of its settings.
function makeSliders(sliders) {
  state.sliders = sliders;
  const labels = sliders.map(({ name, minimum, maximum, step, value, doc }) => {
    const words = name.replaceAll("_", "-");
    const input = el("input", { type: "range", id: name, "aria-label": words, "aria-describedby": "hint", min: minimum, max: maximum, step, value });
    input.addEventListener("input", () => {
      showSettings();
      drawDistribution();
    });
    return el("label", { "data-hint": `${words}: ${doc}` }, `${words} `, el("output", {}), input);
  });
  $(".sliders").prepend(...labels);
  showSettings();
}

function showSettings() {
  for (const { name, off } of state.sliders) {
    const value = Number($(`#${name}`).value);
    const words = value === off[0] ? off[1] : String(value);
    $(`#${name}`).parentElement.querySelector("output").textContent = words;
    $(`#${name}`).setAttribute("aria-valuetext", words);
  }
}

function listen() {
  const typed = calm(120, arrive);
  $("#prompt").addEventListener("input", () => {
    forget();
    typed();
  });
  $("#prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) nextWord();
  });
  $("#model").addEventListener("change", () => {
    forget();
    meet($("#model").value);
  });
  $("#step").addEventListener("input", () => {
    writing(false);
    scrub();
  });
  $("#next").addEventListener("click", nextWord);
  $("#tour").addEventListener("click", () => {
    slow(true);
    $("#onward").focus({ preventScroll: true });
  });
  $("#latest button").addEventListener("click", async () => {
    await goTo(state.at - 1);
    openWhy();
  });
  $("#join").addEventListener("click", () => nextWord().then(() => $("#join").focus()));
  $("#on").addEventListener("click", () => writing(pace === 0));
  $("#begin").addEventListener("click", begin);
  $("#number").addEventListener("input", () => {
    state.number = Number($("#number").value);
    drawDistribution();
  });
  for (const name of ["pointerdown", "pointermove"]) $("nw-draw").addEventListener(name, drag);
  for (const name of ["pointerover", "focusin"]) $(".sliders").addEventListener(name, (event) => {
    const hint = event.target.closest("[data-hint]")?.dataset.hint;
    if (hint) $("#hint").textContent = hint;
  });
  $("#fate").addEventListener("click", () => {
    state.number = null;
    drawDistribution();
    $("#number").focus();
  });
  $("#seed").addEventListener("input", () => {
    state.number = null;
    drawDistribution();
  });
  $("#reroll").addEventListener("click", () => {
    $("#seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
    state.number = null;
    drawDistribution();
  });
  $("#merging").addEventListener("toggle", () => ($("#merging").open && state.tokens ? ($("nw-merges").data = state.tokens) : null));
  $("#layers > details").addEventListener("toggle", (event) => event.target === event.currentTarget && event.target.open && drawLayers());
  $("#leaving").addEventListener("toggle", (event) => event.target === event.currentTarget && event.target.open && drawLeaveOneOut());
  $("#apart").addEventListener("toggle", (event) => event.target === event.currentTarget && event.target.open && drawWhy());
  $("#contrast").addEventListener("change", () => {
    state.contrast = $("#contrast").value === "" ? null : Number($("#contrast").value);
    drawWhy();
  });
  $("#distribution").addEventListener("click", (event) => {
    if (event.target.closest(".nw-number")) return; // a click on a number opens its exact numbers
    const item = event.target.closest(".nw-distribution-rows > li");
    const at = item ? [...item.parentElement.children].indexOf(item) : -1;
    const row = state.next?.distribution.rows[at];
    if (!row || row.chosen) return;
    state.contrast = row.id;
    openApart();
  });
  $("#ask-why").addEventListener("click", openWhy);
  $("#ask-where").addEventListener("click", drawWhy);
  $("#ask-when button").addEventListener("click", drawWhen);
  $("#when").addEventListener("watch", (event) => meet(`${state.model.checkpoint.run}@${event.detail}`));
  $("#slow").addEventListener("change", () => slow($("#slow").checked));
  $("#onward").addEventListener("click", onward);
  $("#leave").addEventListener("click", () => slow(false));
  $("#expert").addEventListener("change", expert);
  $("#share").addEventListener("click", share);
}

// Drag the random number along its line.
function drag(event) {
  const line = $("nw-draw .nw-line svg");
  if (!line || event.button > 0 || (event.type === "pointerdown" ? !line.contains(event.target) : !$("nw-draw").hasPointerCapture(event.pointerId))) return;
  $("nw-draw").setPointerCapture(event.pointerId);
  const { left, width } = line.getBoundingClientRect();
  $("#number").value = state.number = Math.min(Math.max((event.clientX - left) / width, 0), Number($("#number").max));
  drawDistribution();
}

function openWhy() {
  $("#leaving").open = $("#apart").open = true;
  $("#why").scrollIntoView({ block: "start" });
  $("#leaving summary").focus({ preventScroll: true });
}

// Open the attribution: why this word and not another.
function openApart() {
  if ($("#apart").open) drawWhy();
  $("#apart").open = true;
  $("#apart").scrollIntoView({ block: "start" });
  $("#apart summary").focus({ preventScroll: true });
}

// Three views of one page; the other two ask the server nothing before they are opened.
const VIEWS = { watch: () => null, compare: () => openCompare(state.model, guarded, () => ({ ...settings(), seed: seed() })), learning: () => openLearning(guarded, watch) };
const opened = new Set();

function showView() {
  const wanted = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "watch";
  for (const name of Object.keys(VIEWS)) {
    $(`#view-${name}`).hidden = name !== wanted;
    const link = $(`.views a[href="#${name}"]`);
    if (name === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $(".modes").hidden = $("#model").hidden = wanted !== "watch";
  if (wanted !== "watch" && $("#slow").checked) slow(false);
  if (!state.model) return;
  if (opened.has(wanted)) lookAgain();
  else VIEWS[wanted]();
  opened.add(wanted);
}

// Runs come and grow while the page is open.
async function lookAgain() {
  const reply = await guarded("model", () => ask("model", { model: state.model.name }));
  if (!reply || reply.name !== state.model.name) return;
  state.model = reply;
  fillModels($("#model"), reply, reply.name, false);
  if (opened.has("compare")) fillSides(reply);
  showCheckpoint();
}

// The current model: one of the server's, or a checkpoint of a run, RUN@STEP.
async function meet(name) {
  const reply = await guarded("model", () => ask("model", { model: name }));
  if (!reply) return;
  const first = state.model === null;
  state.model = reply;
  const { layers, heads: each, vocab, context, width } = reply;
  fillModels($("#model"), reply, reply.name, false);
  $("#facts").textContent = `${reply.name}: ${layers} layers of ${each} heads, ${count(vocab)} tokens, reads ${count(context)} at once, ${count(width)} numbers wide.`;
  showCheckpoint();
  if (!first) return arrive();
  makeSliders(reply.sliders);
  showView();
  return arrive();
}

function showCheckpoint() {
  const { checkpoint, runs } = state.model;
  $("#checkpoint").hidden = checkpoint === null;
  if (checkpoint === null) return;
  const steps = runs[checkpoint.run];
  $("#step").max = steps.length - 1;
  if (document.activeElement !== $("#step")) $("#step").value = steps.indexOf(checkpoint.step);
  const words = `after ${count(checkpoint.step)} ${checkpoint.step === 1 ? "step" : "steps"} of ${checkpoint.run}`;
  $("#checkpoint output").textContent = words;
  $("#step").setAttribute("aria-valuetext", words);
}

// While the slider moves the text stays, so that one sees the same question answered better and better.
const scrub = soon(() => {
  const { checkpoint, runs } = state.model;
  return meet(`${checkpoint.run}@${runs[checkpoint.run][Number($("#step").value)]}`);
});

function watch(name, prompt) {
  forget();
  $("#prompt").value = prompt;
  location.hash = "watch";
  meet(name);
}

listen();
showView();
window.addEventListener("hashchange", showView);
meet(null);
