// One plain sentence for each station about what it shows; for experts one with technical terms and shapes.
import { count, exact, percent, visible } from "./elements/parts.js";
import { sorted } from "./elements/leave-one-out.js";

export function say(station, { model, next, tokens, why, leftOut }, expert) {
  if (!model || !next) return "";
  const known = why?.why.token.id === next.draw.token.id ? why : null;
  const left = leftOut?.token.id === next.draw.token.id ? leftOut : null;
  return (expert ? EXPERT : PLAIN)[station](model, next, tokens ?? { ids: next.ids }, known, left);
}

const quoted = (token) => `‘${visible(token).replace(/^ (?=\S)/, "")}’`; // the chip shows the space before the word
const short = (number) => (Math.floor(100 * number) / 100).toFixed(2); // rounded down, so that it stays below 1

// The strongest claims that held, for the word and against it.
function reasons({ why, prompt }, token, marks) {
  const named = ({ kind, source, layer, head, words }) => (kind === "read" ? `head ${layer}.${head}, reading ${marks?.[source] ? "the mark that begins the text" : quoted(prompt.tokens[source])},` : words);
  const strongest = (sign) => why.components.filter((component) => component.holds && sign * component.claim > 0).sort((a, b) => sign * (b.claim - a.claim))[0];
  const [best, worst] = [strongest(1), strongest(-1)];
  if (!best && !worst) return `Inside the model, no single part that was tested made it say ${quoted(token)}.`;
  if (!best || !worst) return `Inside the model, ${named(best ?? worst)} spoke ${best ? "for" : "against"} it most. That was tested by running the model without it.`;
  return `Inside the model, ${named(best)} spoke for it most and ${named(worst)} against it. Both were tested by running the model without them.`;
}

// The sentence about leave-one-out: the word whose absence changes the probability the most.
function needed({ token, before, rows }) {
  const [first] = sorted(rows);
  if (!first || Math.abs(first.change) < 0.1) return `No single word of the text decided it: without any one of them, ${quoted(token.token)} is about as likely.`;
  return `Without ${quoted(first.words)} in the text, ${quoted(token.token)} would have had ${percent(first.after)} instead of ${percent(before)}.`;
}

const PLAIN = {
  tokens: (model, next, { ids }) => `The text is cut into ${ids.length} ${ids.length === 1 ? "piece" : "pieces"}. Each is a number to the model.`,
  layers: (model) => `The pieces go through ${model.layers === 1 ? "one layer. In it" : `${model.layers} layers. In each`}, the last piece looks back at the others.`,
  distribution: (model, { distribution: { chosen, rows } }) => `The model has ${count(model.vocab)} pieces to choose from. The most probable is ${quoted(rows[0].token)} with ${percent(rows[0].probability)}; ${chosen.rank === 1 ? "that is also the one drawn." : `${quoted(chosen.token)}, the one drawn, had ${percent(chosen.probability)}.`}`,
  draw: (model, { draw }) => (draw.how === "greedy" ? "Nothing is random here: the most probable is taken." : draw.by_hand ? `You moved the number to ${short(draw.number)}; it lies on ${quoted(draw.token.token)}.` : `A random number, ${short(draw.number)}, falls on ${quoted(draw.token.token)}.`),
  word: (model, { draw }) => `${quoted(draw.token.token)} comes next. It will join the text, and everything begins again.`,
  why: (model, { draw }, tokens, known, left) => (known || left ? [left && needed(left), known && reasons(known, draw.token.token, tokens.marks)].filter(Boolean).join(" ") : `Why ${quoted(draw.token.token)}? Leave out words of the text, or take parts out of the model, and see what changes.`),
  where: () => "Where might the word come from: copied from your text, or known from what the model was trained on?",
};

const EXPERT = {
  tokens: (model, next, { ids }) => `${ids.length} ids of a vocabulary of ${count(model.vocab)}; the context holds ${count(model.context)}.`,
  layers: (model) => `Residual [${model.width}] through ${model.layers} blocks of ${model.heads} heads. Pattern of the last position; logit lens after every block.`,
  distribution: (model, { distribution: { chosen, sampling, filters } }) => `p = ${exact(chosen.probability)}, rank ${chosen.rank}, drawn with ${exact(chosen.filtered_probability)}; temperature ${sampling.temperature}${filters.map((each) => `, ${each.filter} removed ${count(each.tokens)} (mass ${each.mass.toPrecision(3)})`).join("")}.`,
  draw: (model, { draw }) => (draw.how === "greedy" ? "Temperature 0: argmax, no draw." : `u = ${exact(draw.number)}${draw.by_hand ? " by hand" : ` = Philox(key ${draw.seed}, counter ${draw.position})`}, in [${draw.interval.map((end) => end.toFixed(6)).join(", ")}).`),
  word: (model, { draw }) => `id ${draw.token.id} at position ${draw.position}.`,
  why: () => "Exact attribution of the logit above its mean under p; every component zero-ablated and measured.",
  where: () => "Longest matches and n-grams of the indexed training text.",
};
