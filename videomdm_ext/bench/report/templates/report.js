// A button beside a figure plays its scene in the viewer, which is a document of its own inside the page.
(() => {
  "use strict";
  const frame = document.getElementById("player");
  for (const button of document.querySelectorAll("[data-scene]")) {
    button.addEventListener("click", () => {
      const part = (name) => frame.contentDocument.querySelector(`[data-part="${name}"]`);
      part("choice").value = button.dataset.scene;
      part("choice").dispatchEvent(new Event("change"));
      if (frame.contentDocument.getElementById("viewer").dataset.state === "paused") part("toggle").click();
      frame.scrollIntoView({ block: "nearest" });
      frame.focus({ preventScroll: true });
    });
  }
})();
