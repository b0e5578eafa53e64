// The page of `clfa serve`: asks the service that it came from, and nobody else. No build step, no dependencies.

import { $, element, listed, percent } from "./element.js";
import { hints, matched } from "./words.js";

const MOST = 16; // posts of a table in one request
const WORDS = 40, PARTS = 4; // that are taken away in turn; parts of each side of an image
const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
let info = { columns: ["text", "image"], files: ["image"], classes: [], limits: { bytes: 1e7, characters: 1e4 } };
let image = null; // of the post: a Blob
let rows = [], stopped = false;

// ---- the service

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers["X-API-Key"] = $("key").value;
  let answer;
  try {
    answer = await fetch(path, body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 401) $("key-field").hidden = false;
  const help = { 401: "Enter a key at the top of the page.", 413: "Send a smaller image.", 429: "Many ask at once: try again in a moment.",
    503: "The service is starting or about to end: try again in a moment." }[answer.status] ?? "";
  throw Object.assign(new Error([said.message ?? `Error ${answer.status}`, help].filter(Boolean).join(" — ")), { status: answer.status });
}

async function inBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  return btoa(text);
}

async function begin() {
  try {
    info = await ask("info");
  } catch (error) {
    $("error").textContent = error.message;
    if (error.status !== 401) return;
  }
  $("name").textContent = info.name ?? "clfa";
  document.title = `${info.name ?? "clfa"} · clfa`;
  if (info.classes.length) $("about").textContent = `Decides between ${listed(info.classes)}, from ${listed(info.columns)}.`;
  $("drop").hidden = !info.files.length;
  const typed = $("texts").querySelector("textarea")?.value ?? "";
  $("texts").replaceChildren(...info.columns.filter((column) => !info.files.includes(column)).map((column) =>
    element("p", {}, element("label", {}, column === "text" ? "Text" : column,
      element("textarea", { name: column, maxLength: info.limits.characters, className: column === "text" ? "" : "short" })))));
  if (typed) $("texts").querySelector("textarea").value = typed;
}

// ---- one post

function show(blob, name) {
  if (blob && !KINDS.includes(blob.type)) return refuse(`${name} is no PNG, JPEG, WebP, GIF or BMP image.`);
  if (blob && blob.size > 0.74 * info.limits.bytes) return refuse(`${name} is too large: ${(blob.size / 1e6).toFixed(1)} MB.`);
  if (image) URL.revokeObjectURL($("shown").src);
  image = blob;
  $("error").textContent = "";
  $("preview").hidden = !blob;
  if (blob) {
    $("shown").src = URL.createObjectURL(blob);
    $("shown").alt = `The image of the post: ${name}`;
    $("file-name").textContent = name;
  } else $("image").value = "";
}

function refuse(message) {
  $("error").textContent = message;
}

async function predict() {
  const blob = image; // what is chosen meanwhile is another post
  const texts = Object.fromEntries([...$("texts").querySelectorAll("textarea")].filter((one) => one.value.trim()).map((one) => [one.name, one.value]));
  if (!blob && !Object.keys(texts).length) return refuse("Write a text, or choose an image.");
  $("error").textContent = "";
  $("ask").disabled = true;
  $("ask").textContent = "Predicting …";
  try {
    const files = blob ? { [info.files[0]]: await inBase64(blob) } : {};
    const both = blob && Object.keys(texts).length;
    const posts = both ? [{ ...texts, ...files }, texts, files] : [{ ...texts, ...files }];
    const [whole, ...alone] = (await ask("predict", { posts })).predictions;
    if (whole.problem) throw new Error(whole.problem);
    render(whole, alone, { texts, blob });
  } catch (error) {
    $("result").replaceChildren();
    refuse(error.message);
  } finally {
    $("ask").disabled = false;
    $("ask").textContent = "Predict";
  }
}

function bars(answer) {
  const table = element("table", { className: "grid" });
  table.append(element("caption", { className: "skip" }, "Probability of each class"));
  for (const [name, value] of Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1])) {
    const bar = element("div");
    bar.style.width = `${100 * value}%`;
    const row = element("tr", { className: name === answer.predicted ? "best" : "" }, element("th", { scope: "row" }, name),
      element("td", { className: "bar" }, bar), element("td", { className: "number" }, percent(value)));
    table.append(row);
  }
  return table;
}

function render(whole, alone, post) {
  const parts = [element("p", { className: "label" }, whole.predicted), bars(whole)];
  if (alone.length) {
    const said = element("table", { className: "grid" });
    ["The text alone", "The image alone"].forEach((name, place) => {
      const one = alone[place];
      said.append(element("tr", {}, element("th", { scope: "row" }, name),
        element("td", {}, one.problem || one.predicted), element("td", { className: "number" }, one.problem ? "" : percent(one.probabilities[one.predicted]))));
    });
    parts.push(element("h3", {}, "What each half would say"), said);
  }
  const why = element("button", { type: "button", id: "why" }, "What does it rest on?");
  why.addEventListener("click", () => explain(whole, post, why));
  const cues = element("div", { id: "cues" });
  $("result").replaceChildren(...parts, cues, element("p", { className: "actions" }, why, element("span", {}, "asks once for each word and part of the image")), matching(post));
  $("result").focus();
  if (info.cues && post.texts.text) hint(whole, post.texts.text, cues);
}

// ---- what its words hint at, and where they meet the image

async function hint(whole, text, place) {
  try {
    place.append(...hints(await patiently(() => ask("predict/cues", { text })), whole.predicted));
  } catch (error) {
    place.append(element("p", { className: "soft" }, `What the training posts say could not be asked: ${error.message}`));
  }
}

function matching(post) {
  if (!info.alignment) return "";
  const lacks = [!Object.keys(post.texts).length && "text", !post.blob && "image"].filter(Boolean);
  if (lacks.length) return element("p", { id: "unmatched", className: "soft" }, `Words and image cannot be matched: the post has no ${lacks.join(" and no ")}.`);
  const button = element("button", { type: "button", id: "match" }, "Match words and image");
  button.addEventListener("click", () => match(post, button));
  return element("p", { className: "actions" }, button, element("span", {}, "shows where each word meets the image"));
}

async function match({ texts, blob }, button) {
  button.disabled = true;
  button.textContent = "Matching …";
  try {
    const answer = await patiently(async () => ask("predict/alignment", { ...texts, [info.files[0]]: await inBase64(blob) }));
    if (!button.isConnected) return; // another post was predicted meanwhile
    button.closest("p").replaceWith(matched(answer, blob));
    $("matched").focus();
  } catch (error) {
    if (!button.isConnected) return;
    refuse(error.message);
    button.disabled = false;
    button.textContent = "Match words and image";
  }
}

// ---- what a prediction rests on: each word, and each part of the image, taken away in turn

async function explain(whole, { texts, blob }, why) {
  why.disabled = true;
  why.textContent = "Asking …";
  try {
    const column = "text" in texts ? "text" : Object.keys(texts)[0];
    const words = column ? texts[column].trim().split(/\s+/).slice(0, WORDS) : [];
    const rest = column ? texts[column].trim().split(/\s+/).slice(WORDS) : [];
    const files = blob ? { [info.files[0]]: await inBase64(blob) } : {};
    const without = words.map((_, place) => ({ ...texts, [column]: [...words.slice(0, place), ...words.slice(place + 1), ...rest].join(" "), ...files }));
    const hidden = blob ? (await partsHidden(blob)).map((part) => ({ ...texts, [info.files[0]]: part })) : [];
    const answers = await together([...without, ...hidden]);
    if (!why.isConnected) return; // another post was predicted meanwhile
    const of = (answer) => answer.problem ? null : answer.probabilities[whole.predicted];
    const ofWords = answers.slice(0, words.length).map((answer) => [of(whole), of(answer)]);
    const [plain, ...parts] = answers.slice(words.length); // plain: the image as it is sent for these, nothing hidden
    const ofParts = parts.map((answer) => [of(plain), of(answer)]);
    why.closest("p").replaceWith(rests(whole, words, ofWords, ofParts, blob, rest.length));
    $("rests").focus();
  } catch (error) {
    if (!why.isConnected) return;
    refuse(error.message);
    why.disabled = false;
    why.textContent = "What does it rest on?";
  }
}

async function together(posts) {
  const answers = [];
  for (let start = 0; start < posts.length; ) {
    const some = [];
    for (let size = 0; start < posts.length && some.length < MOST && size < 0.5 * info.limits.bytes; start++) {
      some.push(posts[start]);
      size += JSON.stringify(posts[start]).length;
    }
    answers.push(...(await patiently(() => ask("predict", { posts: some }))).predictions);
  }
  return answers;
}

async function partsHidden(blob) {
  const whole = await createImageBitmap(blob), scale = Math.min(1, 448 / Math.max(whole.width, whole.height));
  const canvas = element("canvas", { width: Math.max(1, Math.round(whole.width * scale)), height: Math.max(1, Math.round(whole.height * scale)) });
  const pen = canvas.getContext("2d"), wide = canvas.width / PARTS, high = canvas.height / PARTS, files = [];
  for (let place = -1; place < PARTS * PARTS; place++) { // at -1 nothing is hidden
    pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(whole, 0, 0, canvas.width, canvas.height);
    pen.fillStyle = "#808080"; if (place >= 0) pen.fillRect(wide * (place % PARTS), high * Math.floor(place / PARTS), wide, high);
    files.push(await inBase64(await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92))));
  }
  return files;
}

function rests(whole, words, ofWords, ofParts, blob, more) { // of each its probability with it and without it
  const dropOf = ([now, without]) => now === null || without === null ? null : now - without;
  const sizes = [...ofWords, ...ofParts].map((pair) => Math.abs(dropOf(pair) ?? 0)), most = Math.max(0.05, ...sizes);
  const said = element("p", { id: "said", className: "said", ariaLive: "polite" }, 
    `${Math.max(...sizes) < 0.02 ? "No single word or part changes the answer. " : ""}Point at a word or a part of the image, or go there with Tab: how sure it is of “${whole.predicted}” without it.`);
  const sentence = (what, pair) => dropOf(pair) === null ? `Without ${what} it could not be asked.` :
    `Without ${what}: ${percent(pair[1])} (${dropOf(pair) > 0 ? "−" : "+"}${(100 * Math.abs(dropOf(pair))).toFixed(1)} points).`;
  const marked = (name, what, pair) => {
    const drop = dropOf(pair);
    const made = element("button", { type: "button", className: `${name}${(drop ?? 0) < 0 ? " against" : ""}`, ariaLabel: sentence(what, pair) });
    const share = Math.abs(drop ?? 0) / most;
    made.style.setProperty("--share", share < 0.1 ? "0" : share.toFixed(3));
    for (const event of ["mouseenter", "focus"]) made.addEventListener(event, () => { said.textContent = sentence(what, pair); });
    return made;
  };
  const parts = [element("h3", {}, "What it rests on"), said];
  if (words.length) {
    parts.push(element("p", { className: "words" }, ...words.flatMap((word, place) => {
      const made = marked("word", `“${word}”`, ofWords[place]);
      made.textContent = word;
      return [made, " "];
    })));
  }
  if (ofParts.length) {
    const picture = element("div", { className: "picture" }, element("img", { src: URL.createObjectURL(blob), alt: "The image, with the parts that count marked" }));
    const names = ["top", "upper middle", "lower middle", "bottom"], sides = ["left", "left middle", "right middle", "right"];
    picture.append(element("div", { className: "parts" }, ...ofParts.map((pair, place) =>
      marked("part", `the part ${names[Math.floor(place / PARTS)]}, ${sides[place % PARTS]}`, pair))));
    parts.push(picture);
  }
  parts.push(element("p", { className: "soft" }, 
    `The stronger the mark, the more the answer rests on it; dashed: it speaks for another class.${more ? ` The first ${WORDS} words were asked.` : ""}`));
  return element("div", { id: "rests", tabIndex: -1 }, ...parts);
}

// ---- example posts, drawn here

const DRAWINGS = {
  storm(pen) {
    pen.fillStyle = "#55606e"; pen.fillRect(0, 0, 224, 224);
    pen.fillStyle = "#8e98a5"; for (const [x, y, r] of [[70, 70, 36], [110, 56, 44], [155, 72, 36]]) { pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fill(); }
    pen.strokeStyle = "#b9d4ee"; pen.lineWidth = 4;
    for (let x = 20; x < 220; x += 22) { pen.beginPath(); pen.moveTo(x, 120); pen.lineTo(x - 16, 200); pen.stroke(); }
    pen.fillStyle = "#ffd94a"; pen.beginPath(); pen.moveTo(120, 100); pen.lineTo(92, 160); pen.lineTo(114, 156); pen.lineTo(98, 210); pen.lineTo(142, 140); pen.lineTo(118, 144); pen.closePath(); pen.fill();
  },
  garden(pen) {
    pen.fillStyle = "#9fd3f5"; pen.fillRect(0, 0, 224, 224);
    pen.fillStyle = "#6ab04c"; pen.fillRect(0, 140, 224, 84);
    pen.fillStyle = "#ffd23f"; pen.beginPath(); pen.arc(176, 46, 28, 0, 7); pen.fill();
    for (const [x, colour] of [[40, "#e84393"], [90, "#f9ca24"], [140, "#eb4d4b"], [190, "#a55eea"]]) {
      pen.fillStyle = "#2d7a2d"; pen.fillRect(x - 3, 150, 6, 50);
      pen.fillStyle = colour; for (let turn = 0; turn < 6; turn++) { pen.beginPath(); pen.arc(x + 13 * Math.cos(turn), 148 + 13 * Math.sin(turn), 9, 0, 7); pen.fill(); }
      pen.fillStyle = "#fff3b0"; pen.beginPath(); pen.arc(x, 148, 8, 0, 7); pen.fill();
    }
  },
};

async function example(text, name) {
  const canvas = element("canvas", { width: 224, height: 224 });
  DRAWINGS[name](canvas.getContext("2d"));
  $("texts").querySelector("textarea").value = text;
  show(await new Promise((done) => canvas.toBlob(done, "image/png")), `a drawing of a ${name}`);
}

// ---- a table

function records(text) {
  const found = [[""]];
  let quoted = false;
  for (let place = 0; place < text.length; place++) {
    const sign = text[place], line = found[found.length - 1];
    if (quoted) {
      if (sign !== '"') line[line.length - 1] += sign;
      else if (text[place + 1] === '"') { line[line.length - 1] += '"'; place++; } else quoted = false;
    } else if (sign === '"' && !line[line.length - 1]) quoted = true;
    else if (sign === ",") line.push("");
    else if (sign === "\n") found.push([""]);
    else if (sign !== "\r") line[line.length - 1] += sign;
  }
  const [head, ...rest] = found.filter((line) => line.length > 1 || line[0]);
  return (rest ?? []).map((line) => Object.fromEntries((head ?? []).map((name, place) => [name.trim().replace(/^\ufeff/, ""), line[place] ?? ""])));
}

async function predictTable(files) {
  $("table-error").textContent = "";
  const table = files.find((file) => /\.csv$/i.test(file.name) || file.type === "text/csv");
  if (!table) { $("table-error").textContent = "Choose a CSV file, with its images beside it."; return; }
  const read = records(await table.text());
  const known = info.columns.filter((column) => read[0] && column in read[0]);
  if (!known.length) { $("table-error").textContent = `${table.name} has no column that the model reads: ${info.columns.join(", ")}.`; return; }
  const images = new Map(files.map((file) => [file.name, file]));
  rows = []; stopped = false;
  $("body").replaceChildren();
  $("filter").replaceChildren(...["all", ...info.classes, "problems"].map((name) => element("option", { value: name }, name)));
  $("progress").hidden = $("rows").hidden = false;
  $("bar").max = read.length;
  try {
    for (let start = 0; start < read.length && !stopped; ) {
      const posts = [], chunk = [];
      let size = 0;
      while (start < read.length && chunk.length < MOST && size < 0.5 * info.limits.bytes) {
        const row = read[start++], post = {};
        let problem = "";
        for (const column of known) {
          if (!row[column]) continue;
          if (!info.files.includes(column)) { post[column] = row[column].slice(0, info.limits.characters); continue; }
          const file = images.get(row[column].split(/[\\/]/).pop());
          if (!file) problem = `no file ${row[column]} was chosen`;
          else if (file.size > 0.4 * info.limits.bytes) problem = `${file.name} is too large`;
          else { post[column] = await inBase64(file); size += post[column].length; }
        }
        chunk.push({ row, problem });
        posts.push(post);
      }
      const answers = await patiently(() => ask("predict", { posts }));
      chunk.forEach(({ row, problem }, place) => add({ row, ...answers.predictions[place], problem: problem || answers.predictions[place].problem }));
      $("bar").value = rows.length;
      $("done").textContent = `${rows.length} of ${read.length} posts`;
    }
  } catch (error) {
    $("table-error").textContent = `${error.message} ${rows.length} posts were answered.`;
  }
  $("stop").hidden = true;
}

async function patiently(work, tries = 8) {
  for (let number = 1; ; number++) {
    try {
      return await work();
    } catch (error) {
      if (![429, 503].includes(error.status) || number === tries) throw error;
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

function visible(answer) {
  const wanted = $("filter").value;
  return wanted === "all" || (wanted === "problems" ? answer.problem : answer.predicted === wanted);
}

function add(answer) {
  const value = answer.predicted === null ? "" : percent(answer.probabilities[answer.predicted]);
  const cells = [answer.row.text ?? "", info.files.map((column) => answer.row[column] ?? "").join(" "), answer.predicted ?? "", value, answer.problem];
  answer.shown = element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
  answer.shown.hidden = !visible(answer);
  rows.push(answer);
  $("body").append(answer.shown);
  count();
}

function count() {
  const shown = rows.filter((answer) => !answer.shown.hidden).length;
  $("shown-rows").textContent = `${shown} of ${rows.length} posts shown`;
}

function download() {
  const quoted = (cell) => `"${String(cell ?? "").replaceAll('"', '""')}"`;
  const own = Object.keys(rows[0]?.row ?? {}), classes = info.classes;
  const lines = [[...own, "predicted", ...classes.map((name) => `probability_${name}`), "problem"]];
  for (const answer of rows) {
    lines.push([...own.map((name) => answer.row[name]), answer.predicted, ...classes.map((name) => answer.probabilities[name]), answer.problem]);
  }
  const address = URL.createObjectURL(new Blob([lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
  element("a", { href: address, download: "predicted.csv" }).click();
  URL.revokeObjectURL(address);
}

// ---- what happens when

$("post").addEventListener("submit", (event) => { event.preventDefault(); predict(); });
$("post").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); predict(); } });
$("image").addEventListener("change", () => { const [file] = $("image").files; if (file) show(file, file.name); });
$("remove").addEventListener("click", () => { show(null); $("image").focus(); });
for (const name of ["dragenter", "dragover"]) $("drop").addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
for (const name of ["dragleave", "drop"]) $("drop").addEventListener(name, () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => { event.preventDefault(); const [file] = event.dataTransfer.files; if (file) show(file, file.name); });
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault()); // a file beside its place is not opened
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); show(file, "the image that was pasted"); }
});
$("key").addEventListener("change", () => { $("error").textContent = ""; begin(); });
$("csv").addEventListener("change", () => { $("stop").hidden = false; predictTable([...$("csv").files]).finally(() => { $("csv").value = ""; }); });
$("stop").addEventListener("click", () => { stopped = true; });
$("filter").addEventListener("change", () => { for (const answer of rows) answer.shown.hidden = !visible(answer); count(); });
$("download").addEventListener("click", download);
for (const [text, name] of [["what a lovely day", "storm"], ["my garden this morning", "garden"]]) {
  const button = element("button", { type: "button" }, `“${text}” with a ${name}`);
  button.addEventListener("click", () => example(text, name).then(predict));
  document.querySelector(".examples").append(button);
}
begin();
