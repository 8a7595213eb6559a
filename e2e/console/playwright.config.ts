import { defineConfig } from "@playwright/test";
import { consoleUrl, stageFile } from "./support/environment";

// The console is tested against the real server on the sandbox. `cargo xtask test` sets the environment:
// HOLDFAST_CONSOLE (address), HOLDFAST_TOKEN (of an administrator), HOLDFAST_SANDBOX (facts), KUBECONFIG.
export default defineConfig({
  testDir: "tests",
  outputDir: "test-results/artifacts",
  globalSetup: "./support/stage-up.ts",
  globalTeardown: "./support/stage-down.ts",
  // The cluster has two cores: one test at a time.
  workers: 1,
  fullyParallel: false,
  forbidOnly: true,
  retries: 0,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  reporter: [["list"]],
  use: {
    baseURL: consoleUrl(),
    storageState: stageFile("session.json"),
    viewport: { width: 1280, height: 860 },
    // Traces would hold the token.
    trace: "off",
    screenshot: "only-on-failure",
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
});
