// Loads the console's module and says what to do when that fails.
import init from "{{console.js}}";

const place = document.getElementById("start");
try {
  await init({ module_or_path: "{{console.wasm}}" });
  place.remove();
} catch (error) {
  console.error(error);
  place.setAttribute("role", "alert");
  place.replaceChildren();
  for (const text of [
    "The console could not be started.",
    "Reload the page. If that does not help, use a current browser with WebAssembly, and check that no proxy " +
      "changes the files of this site.",
    String(error),
  ]) {
    const line = document.createElement("p");
    line.textContent = text;
    place.append(line);
  }
}
