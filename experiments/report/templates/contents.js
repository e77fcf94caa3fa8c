// The list of contents: folded where there is little room, and showing where the reader is.
(() => {
  const contents = document.querySelector("nav details");
  const roomy = matchMedia("(min-width: 60.01rem)");
  const fold = () => { contents.open = roomy.matches; };
  fold();
  roomy.addEventListener("change", fold);
  contents.addEventListener("click", (event) => {
    if (event.target.tagName === "A") fold();
  });
  const links = new Map([...contents.querySelectorAll("a")].map((a) => [a.hash.slice(1), a]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) {
    const target = document.getElementById(id);
    if (target) watcher.observe(target);
  }
})();
