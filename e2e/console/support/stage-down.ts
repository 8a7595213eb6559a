import { rmSync } from "node:fs";
import { Cluster } from "./cluster";
import { stage, stageFile } from "./environment";

/** Removes what the tests made. Namespaces go in the background; nothing waits for them. */
export default async function stageDown(): Promise<void> {
  const { id, target } = stage();
  const cluster = new Cluster();
  const own = `/apis/holdfast.dev/v1/namespaces/${target.namespace}`;
  const restores = await cluster.get(`${own}/restores`);
  for (const restore of restores?.items ?? []) {
    if (restore.spec.restoreNamespace?.endsWith(id)) {
      await cluster.remove(`${own}/restores/${restore.metadata.name}`);
    }
  }
  const namespaces = await cluster.get("/api/v1/namespaces");
  for (const { metadata } of namespaces.items) {
    if (metadata.name.endsWith(`-${id}`)) {
      await cluster.remove(`/api/v1/namespaces/${metadata.name}`);
    }
  }
  const targets = await cluster.get(`${own}/targets`);
  for (const { metadata } of targets?.items ?? []) {
    if (metadata.name.endsWith(id)) {
      await cluster.remove(`${own}/targets/${metadata.name}`).catch(() => undefined);
      await cluster.remove(`/api/v1/namespaces/${target.namespace}/secrets/${metadata.name}-credentials`);
    }
  }
  rmSync(stageFile("session.json"), { force: true });
}
