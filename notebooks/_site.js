// Search: every word must occur in a section; those with a word in the heading come first.
const box = document.getElementById("search"), found = document.getElementById("found");
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = !words.length ? [] : SECTIONS
    .map(s => ({ s, head: s.head.toLowerCase(), text: s.text.toLowerCase() }))
    .filter(h => words.every(w => h.head.includes(w) || h.text.includes(w)))
    .sort((a, b) => words.some(w => b.head.includes(w)) - words.some(w => a.head.includes(w)));
  found.replaceChildren(...hits.slice(0, 12).map(({ s, text }) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const near = document.createElement("small");
    link.href = s.page;
    link.textContent = s.title === s.head ? s.title : `${s.title.split(" · ")[0]}: ${s.head}`;
    const at = Math.max(0, text.indexOf(words[0]) - 40);
    near.textContent = s.text.slice(at, at + 110);
    item.append(link, near);
    return item;
  }));
  if (words.length && !hits.length) found.textContent = "nothing found";
});
