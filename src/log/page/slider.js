for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input");
  const figures = slider.querySelectorAll("figure");
  range?.addEventListener("input", () => figures.forEach((figure, i) => { figure.hidden = i !== Number(range.value); }));
}
