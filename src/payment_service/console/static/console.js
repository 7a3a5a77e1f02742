"use strict";
/* What htmx does not do: copy buttons, and forms that are sent once. Every page works without. */

document.documentElement.classList.add("js");

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  form.setAttribute("aria-busy", "true");
  for (const button of form.querySelectorAll("button")) button.disabled = true;
});

document.addEventListener("click", (event) => {
  if (event.target.closest("button[data-print]")) print();
});

/* A page that nobody looks at does not ask whether it changed. */
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault();
});

/* A browser that goes back shows the page as it was left, buttons off. */
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

/* The menu closes by a click beside it, and by Escape. */
const closeMenus = (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (event.type === "keydown" ? event.key === "Escape" : !menu.contains(event.target)) menu.open = false;
  }
};
document.addEventListener("click", closeMenus);
document.addEventListener("keydown", closeMenus);
