// Loaded in <head>, before the first paint: the theme that was chosen here, and a mark that scripts run. Without a choice, the system's theme applies.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const theme = localStorage.getItem("tapeline.theme");
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  } catch {
    // Storage is forbidden: the system's theme.
  }
})();
