// Terms of the glossary show themselves; code can be hidden; a phone opens figures; explorers get
// their height and theme.
addEventListener("DOMContentLoaded", () => {
  for (const term of document.querySelectorAll("a.term[title]")) {
    term.dataset.tip = term.title;
    term.setAttribute("aria-description", term.title);
    term.removeAttribute("title");
  }
  if (matchMedia("(max-width: 600px)").matches) { // a figure opens by itself, to be enlarged
    for (const image of document.querySelectorAll("article img")) {
      if (image.closest("a")) continue;
      const link = document.createElement("a");
      link.href = image.src;
      image.replaceWith(link);
      link.append(image);
    }
  }
  const fold = document.getElementById("fold");
  fold?.addEventListener("click", () => {
    fold.textContent = document.body.classList.toggle("no-code") ? "Show code" : "Hide code";
  });
  const frames = [...document.querySelectorAll("iframe.explorer")];
  const tell = () => frames.forEach(frame => frame.contentWindow?.postMessage(
    { theme: document.documentElement.dataset.theme }, "*"));
  new MutationObserver(tell).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  frames.forEach(frame => frame.addEventListener("load", tell));
  addEventListener("message", said => {
    const frame = frames.find(one => one.contentWindow === said.source);
    if (frame && said.data?.height) frame.style.height = said.data.height + "px";
  });
});
