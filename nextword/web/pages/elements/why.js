// Why this token: a waterfall from 0 to its lead, each claim beside what was measured when its component was ablated.
import { Component, chip, el, exact, figures, picture, signed, svg, visible } from "./parts.js";

const NEAR = 24; // tokens: at the end of the prompt, shown whether a component read them or not

export class NwWhy extends Component {
  tokens = null; // texts of the prompt's tokens, set before `data`; without them no words are linked to bars

  // A bar and the word it came from light up together, wherever on the page that word is shown.
  constructor() {
    super();
    const journey = () => this.closest("[data-journey]")?.dataset.journey;
    const lit = (event) => light(journey(), event.target.closest("[data-source], [data-position]")?.dataset);
    for (const name of ["pointerover", "focusin"]) this.addEventListener(name, lit);
    for (const name of ["pointerleave", "focusout"]) this.addEventListener(name, () => light(journey()));
  }

  describe(data) {
    const { token, contrast, components, rest, claims, audit } = data;
    const steps = [...components, { words: "all other components together", claim: rest, other: true }];
    const ends = steps.reduce((sums, step) => [...sums, sums.at(-1) + step.claim], [0]);
    const dots = steps.map((step, at) => (audit && !step.other ? ends[at] + step.measured : ends[at]));
    const [low, high] = [Math.min(0, claims.total, ...ends, ...dots), Math.max(0, claims.total, ...ends, ...dots)];
    const x = (value) => 10 + (980 * (value - low)) / (high - low || 1);
    const above = contrast ? el("span", {}, chip(contrast.token)) : "what the model expected on average";
    return [
      el("p", {}, "Parts of the model pushed ", chip(token.token, "nw-chosen"), " up or down. A bar to the right spoke for it, a bar to the left against it; each begins where the last one ended. Together they make ", claims.total < 0 ? "how far it is behind " : "its lead over ", above, `: ${signed(claims.total)}.`),
      audit ? el("p", {}, `Each claim was put to the test: the part was taken out and the model run again. The dot is what really changed. ${audit.held} of ${audit.tested} claims held (✓); failed ones (✗) are grey and stay in view.`) : el("p", {}, "The claims were not put to the test."),
      this.tokens ? words(this.tokens, components) : null,
      el("ol", { class: "nw-rows nw-why-rows" }, ...steps.map((step, at) => bar(step, ends[at], x, audit, this.tokens)), total(claims.total, x)),
      el("p", { class: "nw-muted" }, "A head is a part that reads earlier tokens, a neuron one that answers to a pattern; head 3.1 is number 1 of layer 3, both counted from 0. A reason is what was written at the last token: how earlier tokens were prepared for it is not told here."),
      this.exactly("Exact numbers: the attribution and its audit", ...attribution(data)),
    ];
  }
}

function light(journey, { source, position } = {}) {
  const at = source ?? position;
  for (const part of document.querySelectorAll(".nw-linked")) part.classList.remove("nw-linked");
  if (at === undefined) return;
  const within = journey === undefined ? "" : `[data-journey="${journey}"] `;
  for (const part of document.querySelectorAll(`${within}[data-source="${at}"], ${within}[data-position="${at}"]`)) part.classList.add("nw-linked");
}

// The position of the word that a component read; null if it read no single word.
function source({ kind, source }, tokens) {
  return source ?? (tokens && (kind === "token" || kind === "position") ? tokens.length - 1 : null);
}

function words(tokens, components) {
  const named = tokens.map(() => []);
  for (const component of components) named[source(component, tokens)]?.push(`${component.words}, ${signed(component.claim)}`);
  const shown = tokens.flatMap((token, at) => {
    if (at < tokens.length - NEAR && !named[at].length) return at === 0 || named[at - 1].length ? [" … "] : [];
    const word = chip(token);
    word.dataset.position = at;
    if (!named[at].length) return [word];
    word.tabIndex = 0;
    word.title = named[at].join("; ");
    word.setAttribute("aria-label", `${visible(token)}: ${word.title}`);
    word.setAttribute("role", "note");
    return [word];
  });
  return el("p", { class: "nw-read" }, el("span", { class: "nw-muted" }, "What it read; point at a word or a bar to see what belongs together: "), ...shown);
}

function bar(step, start, x, audit, tokens) {
  const tested = audit && !step.other;
  const failed = tested && !step.holds;
  const kind = step.claim < 0 ? "nw-against-fill" : "nw-for-fill";
  const shapes = [base(x), svg("rect", { class: step.other ? "nw-rest-fill" : kind, x: Math.min(x(start), x(start + step.claim)), y: 4, width: Math.max(Math.abs(x(start + step.claim) - x(start)), 1), height: 16 })];
  if (tested) shapes.push(svg("path", { class: "nw-dot-rim", d: `M${x(start + step.measured)} 12h.01` }), svg("path", { class: "nw-dot", d: `M${x(start + step.measured)} 12h.01` }));
  const label = `claimed ${signed(step.claim)}${tested ? `, measured ${signed(step.measured)}, ${failed ? "failed" : "holds"}` : ""}`;
  const mark = tested ? el("b", { class: "nw-mark", title: label, "aria-label": failed ? "failed" : "holds", role: "img" }, failed ? "✗" : "✓") : el("b", { class: "nw-mark" });
  const from = source(step, tokens);
  return el("li", { class: failed ? "nw-failed" : null, "data-source": from, tabindex: from === null ? null : 0 }, el("span", { class: "nw-words" }, step.words), el("span", { class: "nw-bar" }, picture(24, label, ...shapes)), el("span", { class: "nw-number", title: exact(step.claim) }, signed(step.claim), " ", mark));
}

function total(value, x) {
  const shape = svg("rect", { class: "nw-word-fill", x: Math.min(x(0), x(value)), y: 4, width: Math.max(Math.abs(x(value) - x(0)), 1), height: 16 });
  return el("li", { class: "nw-this" }, el("span", { class: "nw-words" }, value < 0 ? "how far it is behind" : "its lead"), el("span", { class: "nw-bar" }, picture(24, `in all ${signed(value)}`, base(x), shape)), el("span", { class: "nw-number", title: exact(value) }, signed(value), " ", el("b", { class: "nw-mark" })));
}

function base(x) {
  return svg("path", { class: "nw-zero", d: `M${x(0)} 0v24` });
}

function attribution({ token, about, logit, above_mean, claims, components, rest, audit }) {
  const parts = Object.keys(claims.parts).map((name) => [name, logit.parts[name], above_mean.parts[name], claims.parts[name]]);
  const sums = ["total", "remainder", "relative_remainder"].map((name) => [name.replace("_", " "), logit[name], above_mean[name], claims[name]]);
  const rows = components.map((component) => [component.words, component.claim, component.expected, component.measured, component.estimated_effect, component.logprob_change, component.ablation, component.holds === undefined ? null : component.holds ? "holds" : "failed"]);
  return [
    el("p", {}, `Claims are contributions to ${about}; the scale of the final norm is frozen. Logit ${exact(token.logit)}, log p ${exact(token.logprob)} nats, probability ${exact(token.probability)}, all in float32. Parts plus remainder are the model's own number.`),
    figures(["part", "the logit", "above the mean", "claims"], [...parts, ...sums]),
    figures(["component (layer.unit, from 0)", "claim", "expected", "measured", "estimated", "change of log p", "ablation", "audit"], [...rows, ["all others", rest, null, null, null, null, null, null]]),
    el("p", {}, "A claim holds if what was measured has its direction and at least a quarter of the expected size. Measured: how much of the same quantity is lost without the component; change of log p: what ablating it does to log p; estimated: the same without running the model again, from one gradient, the scale of each norm frozen."),
    audit ? el("p", {}, `Rank correlation of expected and measured changes of log p: ${exact(audit.rank_correlation)}; with random directions in place of the components: ${exact(audit.control)}; of estimated and measured ones: ${exact(audit.estimate_correlation)}.`) : null,
    audit ? figures(["components", "deletion: log p", "insertion: log p", "deletion of random directions"], audit.deletion.map((value, at) => [at, value, audit.insertion[at], audit.random_deletion[at]])) : null,
  ];
}
customElements.define("nw-why", NwWhy);
