import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

function need(name: string): string {
  const value = process.env[name];
  if (!value) {
    throw new Error(`${name} is not set. Run these tests by \`cargo xtask test\`, or see playwright.config.ts.`);
  }
  return value;
}

/** Address of the console. */
export const consoleUrl = () => need("HOLDFAST_CONSOLE");
/** Bearer token of an administrator of the cluster. */
export const token = () => need("HOLDFAST_TOKEN");

/** What the tests have to know of the sandbox; written by `cargo xtask up`. */
export interface Facts {
  kubeconfig: string;
  s3: { endpoint: string; bucket: string; region: string; accessKeyId: string; secretAccessKey: string };
  images: { busybox: string };
}

export const facts = (): Facts => JSON.parse(readFileSync(need("HOLDFAST_SANDBOX"), "utf8"));

/** What the tests share: made once before all of them. */
export interface Stage {
  /** Distinguishes this run. */
  id: string;
  /** Namespace of the application, protected, with one complete backup. */
  namespace: string;
  plan: string;
  backup: string;
  /** Namespace of another application that no plan protects. */
  unprotected: string;
  target: { namespace: string; name: string };
}

/** A file that lives as long as one run. */
export function stageFile(name: string): string {
  const dir = join(import.meta.dirname, "..", "test-results", "stage");
  mkdirSync(dir, { recursive: true });
  return join(dir, name);
}

export const saveStage = (stage: Stage) => writeFileSync(stageFile("stage.json"), JSON.stringify(stage));
export const stage = (): Stage => JSON.parse(readFileSync(stageFile("stage.json"), "utf8"));

/** Asks until the answer is not undefined. */
export async function until<T>(what: string, seconds: number, ask: () => Promise<T | undefined>): Promise<T> {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) {
      return answer;
    }
    if (Date.now() > end) {
      throw new Error(`${what}: not within ${seconds} s`);
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
