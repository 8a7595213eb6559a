import { request } from "@playwright/test";
import { Cluster } from "./cluster";
import { consoleUrl, facts, saveStage, stageFile, token, until } from "./environment";
import { Rest } from "./rest";

/** Makes what the tests share: two applications, a target, a plan and one complete backup. */
export default async function stageUp(): Promise<void> {
  const id = Math.random().toString(36).slice(2, 8);
  const cluster = new Cluster();
  const context = await request.newContext({ baseURL: consoleUrl() });
  const rest = new Rest(context);
  await rest.signIn(token());
  await context.storageState({ path: stageFile("session.json") });
  const session = await rest.send("GET", "/session");

  const stage = {
    id,
    namespace: `console-app-${id}`,
    plan: "hourly",
    backup: `first-${id}`,
    unprotected: `console-bare-${id}`,
    target: { namespace: session.installNamespace as string, name: `console-${id}` },
  };
  // Saved first, so that whatever is made is also removed.
  saveStage(stage);
  await cluster.createNamespace(stage.namespace);
  await cluster.createNamespace(stage.unprotected);
  await cluster.deploy(stage.namespace);
  await cluster.create(`/api/v1/namespaces/${stage.unprotected}/configmaps`, {
    metadata: { name: "settings" },
    data: { greeting: "hello" },
  });
  await until("the application is ready", 120, async () => (await cluster.isReady(stage.namespace)) || undefined);

  const { s3 } = facts();
  await rest.send("POST", "/targets", {
    name: stage.target.name,
    namespace: stage.target.namespace,
    spec: {
      type: "ObjectStore",
      vendor: "Other",
      objectStoreCredentials: {
        bucketName: s3.bucket,
        region: s3.region,
        url: s3.endpoint,
        credentialSecret: { name: `${stage.target.name}-credentials` },
      },
      allowedNamespaces: ["*"],
    },
    credentials: { accessKey: s3.accessKeyId, secretKey: s3.secretAccessKey },
  });
  await rest.accepted(`/targets/${stage.target.namespace}/${stage.target.name}`, 60);
  await rest.send("POST", "/backupplans", {
    name: stage.plan,
    namespace: stage.namespace,
    spec: { backupConfig: { target: stage.target }, storeSecretsUnencrypted: true },
  });
  await rest.accepted(`/backupplans/${stage.namespace}/${stage.plan}`, 60);
  await rest.send("POST", "/backups", {
    name: stage.backup,
    namespace: stage.namespace,
    backupPlan: stage.plan,
    type: "Full",
    deletionPolicy: "Retain",
  });
  await rest.complete(`/backups/${stage.namespace}/${stage.backup}`, 180);
  await context.dispose();
}
