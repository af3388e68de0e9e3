const receipt = JSON.parse(document.getElementById("receipt").textContent);
for (const why of document.querySelectorAll("nw-why")) why.tokens = receipt.prompt.tokens;
for (const station of document.querySelectorAll("[data-piece]")) station.data = station.dataset.piece.split(".").reduce((part, key) => part[key], receipt);
document.getElementById("expert").addEventListener("change", (event) => {
  for (const station of document.querySelectorAll("[data-piece]")) station.toggleAttribute("expert", event.target.checked);
});
