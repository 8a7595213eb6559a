import type { APIRequestContext } from "@playwright/test";
import { until } from "./environment";

/** The header that writes need. */
const HEADERS = { "x-holdfast-request": "1" };

/** The REST API, as whoever the context is signed in as. */
export class Rest {
  constructor(private readonly context: APIRequestContext) {}

  async signIn(token: string): Promise<void> {
    await this.send("POST", "/session", { method: "token", token });
  }

  async send(method: string, path: string, data?: unknown): Promise<any> {
    const answer = await this.context.fetch(`/api/v1${path}`, { method, data, headers: HEADERS });
    if (!answer.ok()) {
      throw new Error(`${method} ${path}: ${answer.status()} ${await answer.text()}`);
    }
    const text = await answer.text();
    return text ? JSON.parse(text) : undefined;
  }

  /** Waits until a condition is True; fails at once when the run has failed. */
  async complete(path: string, seconds: number): Promise<any> {
    return until(`${path} Complete`, seconds, async () => {
      const object = await this.send("GET", path);
      const isTrue = (type: string) =>
        object.status?.conditions?.find((c: any) => c.type === type && c.status === "True");
      const failed = isTrue("Failed");
      if (failed) {
        throw new Error(`${path} failed: ${failed.reason}: ${failed.message}`);
      }
      return isTrue("Complete") ? object : undefined;
    });
  }

  /** Waits until a target or plan is accepted. */
  async accepted(path: string, seconds: number): Promise<void> {
    await until(`${path} Accepted`, seconds, async () => {
      const object = await this.send("GET", path);
      return object.status?.conditions?.find((c: any) => c.type === "Accepted" && c.status === "True");
    });
  }
}
