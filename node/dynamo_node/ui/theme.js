// Theme: light or dark before anything is painted; the page's own switch outlives a reload.
// Not a module, because modules run after the first paint.
(() => {
  const root = document.documentElement;
  const kept = (() => { try { return localStorage.getItem("dynamo-theme"); } catch { return null; } })();
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = isDark() ? "Light" : "Dark"; button.ariaLabel = `Change to the ${isDark() ? "light" : "dark"} theme`; };
    button.addEventListener("click", () => {
      const next = isDark() ? "light" : "dark";
      root.dataset.theme = next;
      try { localStorage.setItem("dynamo-theme", next); } catch { /* private windows keep nothing */ }
      show();
    });
    dark.addEventListener("change", show);
    show();
  });
})();
