import { readFileSync } from "node:fs";
import { request } from "node:https";
import { facts, token } from "./environment";

/** The little of the Kubernetes API that the tests need, as the administrator. */
export class Cluster {
  private readonly server: URL;
  private readonly ca: Buffer;

  constructor() {
    const kubeconfig = readFileSync(facts().kubeconfig, "utf8");
    const field = (name: string) => kubeconfig.match(new RegExp(`^\\s*"?${name}"?:\\s*"?([^",\\s]+)`, "m"))?.[1];
    const server = field("server");
    const inline = field("certificate-authority-data");
    const file = field("certificate-authority");
    if (!server || !(inline || file)) {
      throw new Error("the kubeconfig names no server or no certificate authority");
    }
    this.server = new URL(server);
    this.ca = inline ? Buffer.from(inline, "base64") : readFileSync(file!);
  }

  /** Sends a request; what is not found is undefined. */
  async ask(method: string, path: string, body?: unknown): Promise<any> {
    const { status, text } = await new Promise<{ status: number; text: string }>((resolve, reject) => {
      const call = request(
        new URL(path, this.server),
        {
          method,
          ca: this.ca,
          timeout: 20_000,
          headers: {
            authorization: `Bearer ${token()}`,
            "content-type": method === "PATCH" ? "application/merge-patch+json" : "application/json",
          },
        },
        (answer) => {
          let text = "";
          answer.setEncoding("utf8");
          answer.on("data", (part) => (text += part));
          answer.on("end", () => resolve({ status: answer.statusCode ?? 0, text }));
        },
      );
      call.on("error", reject);
      call.on("timeout", () => call.destroy(new Error(`${method} ${path}: no answer`)));
      call.end(body === undefined ? undefined : JSON.stringify(body));
    });
    if (status === 404) {
      return undefined;
    }
    if (status >= 400) {
      throw new Error(`${method} ${path}: ${status} ${text}`);
    }
    return JSON.parse(text);
  }

  get = (path: string) => this.ask("GET", path);
  create = (path: string, body: unknown) => this.ask("POST", path, body);
  remove = (path: string) => this.ask("DELETE", path);

  createNamespace = (name: string) =>
    this.create("/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name } });

  /** An application with configuration and a volume that holds random bytes. */
  async deploy(namespace: string): Promise<void> {
    const core = `/api/v1/namespaces/${namespace}`;
    await this.create(`${core}/configmaps`, {
      metadata: { name: "settings" },
      data: { greeting: "hello" },
    });
    await this.create(`${core}/persistentvolumeclaims`, {
      metadata: { name: "data" },
      spec: { accessModes: ["ReadWriteOnce"], resources: { requests: { storage: "64Mi" } } },
    });
    await this.create(`/apis/apps/v1/namespaces/${namespace}/deployments`, {
      metadata: { name: "writer" },
      spec: {
        replicas: 1,
        selector: { matchLabels: { app: "writer" } },
        template: {
          metadata: { labels: { app: "writer" } },
          spec: {
            terminationGracePeriodSeconds: 1,
            containers: [
              {
                name: "writer",
                image: facts().images.busybox,
                command: [
                  "sh",
                  "-c",
                  "test -f /data/bytes || dd if=/dev/urandom of=/data/bytes bs=1M count=12; sync; trap exit TERM; while :; do sleep 1; done",
                ],
                volumeMounts: [{ name: "data", mountPath: "/data" }],
                readinessProbe: { exec: { command: ["test", "-f", "/data/bytes"] }, periodSeconds: 1 },
              },
            ],
            volumes: [{ name: "data", persistentVolumeClaim: { claimName: "data" } }],
          },
        },
      },
    });
  }

  /** Whether the application's pod is ready. */
  async isReady(namespace: string): Promise<boolean> {
    const deployment = await this.get(`/apis/apps/v1/namespaces/${namespace}/deployments/writer`);
    return deployment?.status?.readyReplicas === 1;
  }
}
