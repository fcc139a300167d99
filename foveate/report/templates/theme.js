try {
  const kept = localStorage.getItem("foveate-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch (e) { /* storage is shut: the system's theme it is */ }
