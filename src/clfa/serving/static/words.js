// Of the words of a post: which of them hint at a class in the training posts, and where they meet the image.

import { element } from "./element.js";

const WORDS = 60; // that are shown
const LARGE = 320; // pixels of the longer edge of an image
const HEAT = [255, 84, 0];

const sum = (values) => values.reduce((total, value) => total + value, 0);
const whole = (value) => `${Math.round(100 * value)}\u00a0%`;
const counted = (value) => value.toLocaleString("en");
const cosine = (value) => value.toFixed(2).replace("-", "−");

// ---- cues of the training posts

export function hints({ posts, cues }, predicted) {
  const all = sum(Object.values(posts));
  const title = element("h3", {}, "What its words hint at in the training posts");
  const facts = `Counted in the ${counted(all)} training posts: facts about them, not about how the model decides.`;
  if (!cues.length) {
    return [title, element("p", { className: "soft" }, `None of its words hints at a class by itself. ${facts}`)];
  }
  const table = element("table", { className: "grid cues" });
  table.append(element("caption", { className: "unseen" }, "Words, and how many of the training posts with them have the class"));
  for (const cue of cues) {
    const own = cue.posts[cue.hints_at], of = sum(Object.values(cue.posts));
    const bar = element("div");
    bar.style.width = `${(100 * own) / of}%`;
    const cell = element("td", { className: "bar" }, bar);
    cell.style.setProperty("--base", posts[cue.hints_at] / all);
    table.append(element("tr", { className: cue.hints_at === predicted ? "best" : "" }, element("th", { scope: "row" }, `“${cue.cue}”`), cell,
      element("td", {}, `${counted(own)} of ${counted(of)}: ${cue.hints_at} `, element("small", {}, `(of all posts ${whole(posts[cue.hints_at] / all)})`))));
  }
  return [title, table, element("p", { className: "soft" }, `${facts} The upright line marks the share of all posts.`)];
}

// ---- words and the patches of the image

export function matched({ words, similarity }, blob) {
  const patches = similarity.map((rows) => rows.flat()), columns = similarity[0][0].length;
  const mean = patches[0].map((_, place) => sum(patches.map((own) => own[place])) / patches.length);
  const every = patches.flat(), low = every.reduce((a, b) => Math.min(a, b)), high = every.reduce((a, b) => Math.max(a, b));
  const share = (value) => (value - low) / (high - low || 1); // one scale for all words, so that they compare
  const layer = element("canvas", { className: "heat", width: columns, height: similarity[0].length, ariaHidden: "true" });
  const said = element("p", { id: "matched-said", className: "said", ariaLive: "polite" });
  const start = "The mean of all words. Point at a word, or go there with Tab; Escape comes back to the mean.";

  function show(number) { // of a word, or of none
    const values = patches[number] ?? mean;
    paint(layer, values.map(share));
    said.textContent = number === undefined ? start : sentenceOf(words[number], values, columns);
    buttons.forEach((button, place) => button.classList.toggle("on", place === number));
  }
  const rest = () => show(undefined);
  const buttons = words.slice(0, WORDS).map((word, number) => {
    const made = element("button", { type: "button", className: "word" }, word);
    made.style.setProperty("--share", share(Math.max(...patches[number])).toFixed(3));
    for (const event of ["mouseenter", "focus"]) made.addEventListener(event, () => show(number));
    made.addEventListener("blur", rest);
    return made;
  });
  const list = element("p", { className: "words" }, ...buttons.flatMap((button) => [button, " "]));
  list.addEventListener("mouseleave", () => {
    const number = buttons.indexOf(document.activeElement);
    show(number < 0 ? undefined : number);
  });
  const image = element("img", { src: URL.createObjectURL(blob), alt: "The image of the post" });
  image.addEventListener("load", () => { image.style.width = `${Math.min(LARGE, (LARGE * image.naturalWidth) / image.naturalHeight)}px`; });
  const picture = element("div", { className: "picture grey" }, image, layer);
  const scale = element("p", { className: "scale" }, "cosine ", cosine(low), element("span", { ariaHidden: "true" }), cosine(high));
  const more = words.length > WORDS ? ` The first ${WORDS} of ${words.length} words are shown; the mean is of all.` : "";
  const made = element("div", { id: "matched", tabIndex: -1 }, element("h3", {}, "Where the words meet the image"), said,
    element("div", { className: "beside" }, element("div", {}, picture, scale), list),
    element("p", { className: "soft" }, `The stronger the colour, the closer the model places word and patch; the thicker the line below a word, the closer its closest patch. It shows what the model brings together, not what the answer rests on.${more}`));
  made.addEventListener("keydown", (event) => { if (event.key === "Escape") rest(); });
  rest();
  return made;
}

function paint(layer, shares) {
  const pen = layer.getContext("2d"), data = pen.createImageData(layer.width, layer.height);
  shares.forEach((share, place) => data.data.set([...HEAT, Math.round(215 * share ** 1.5)], 4 * place));
  pen.putImageData(data, 0, 0);
}

function sentenceOf(word, values, columns) {
  const most = values.indexOf(Math.max(...values)), least = values.indexOf(Math.min(...values)), rows = values.length / columns;
  const third = (place, count) => Math.min(2, Math.floor((3 * (place + 0.5)) / count));
  const place = (number) => {
    const name = `${["top", "middle", "bottom"][third(Math.floor(number / columns), rows)]} ${["left", "centre", "right"][third(number % columns, columns)]}`;
    return name === "middle centre" ? "centre" : name;
  };
  return `“${word}” is closest to the ${place(most)} (${cosine(values[most])}), farthest from the ${place(least)} (${cosine(values[least])}).`;
}
