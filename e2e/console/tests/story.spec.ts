import { expect, test } from "@playwright/test";
import { Frame } from "../pages/frame";
import { RunPage } from "../pages/run";
import { Cluster } from "../support/cluster";
import { facts, stage, until } from "../support/environment";

test("a target with wrong keys says so in plain words", async ({ page }) => {
  const { id } = stage();
  const { s3 } = facts();
  await new Frame(page).open("/targets");
  await page.getByRole("link", { name: "New target" }).click();
  await page.getByLabel("Name", { exact: true }).fill(`wrong-${id}`);
  await page.getByLabel("Bucket").fill(s3.bucket);
  await page.getByLabel("Endpoint").fill(s3.endpoint);
  await page.getByLabel("Access key").fill("nobody");
  await page.getByLabel("Secret key").fill("nothing-at-all");
  await page.getByRole("button", { name: "Create target" }).click();
  await expect(page).toHaveURL(new RegExp(`/targets/.*/wrong-${id}$`));
  await expect(page.getByRole("alert")).toContainText("The store refused the key pair", { timeout: 45_000 });
});

test("a namespace is protected and its first backup watched until it is complete", async ({ page }) => {
  test.setTimeout(180_000);
  const { unprotected, target } = stage();
  const frame = new Frame(page);
  await frame.open("/namespaces");
  await expect(frame.row(unprotected)).toContainText("Unprotected");
  await frame.row(unprotected).getByRole("link", { name: `Protect ${unprotected}` }).click();
  await expect(page.getByRole("combobox", { name: "Namespace" })).toHaveValue(unprotected);
  await page.getByRole("combobox", { name: "Target" }).selectOption(`${target.namespace}/${target.name}`);
  await page.getByRole("button", { name: "Create plan" }).click();
  await expect(page).toHaveURL(new RegExp(`/backups/${unprotected}/`));
  const run = new RunPage(page);
  await run.completes(120_000);
  await expect(run.phase("Commit")).toContainText("completed");
  await frame.link("Namespaces").click();
  await expect(frame.row(unprotected)).toContainText("Protected");
});

test("a backup is started, shows each volume on its way and becomes complete", async ({ page }) => {
  test.setTimeout(240_000);
  const { namespace } = stage();
  const frame = new Frame(page);
  await frame.open("/namespaces");
  await page.getByRole("button", { name: `Back up ${namespace} now` }).click();
  await frame.dialog().getByRole("button", { name: "Start backup" }).click();
  await expect(page).toHaveURL(new RegExp(`/backups/${namespace}/`));
  const run = new RunPage(page);
  await expect(run.phase("Validate")).toContainText(/in progress|completed/);
  await expect(run.volumes().filter({ hasText: "data" })).toBeVisible({ timeout: 60_000 });
  await run.completes(180_000);
  await expect(run.volumes().filter({ hasText: "data" })).toContainText("64 MiB of 64 MiB");
  await expect(run.volumes().filter({ hasText: "data" })).toContainText("Incremental");
  await expect(page.locator(".fact").filter({ hasText: "Location" })).toContainText(/[0-9a-f-]{36}\//);

  await run.tab("YAML").click();
  await expect(page.getByLabel("YAML", { exact: true })).toContainText("kind: Backup");
});

test("a backup is verified when somebody asks", async ({ page }) => {
  test.setTimeout(180_000);
  const { namespace, backup } = stage();
  const run = new RunPage(page);
  await run.open(`/backups/${namespace}/${backup}`);
  await run.button("Verify").click();
  const dialog = run.dialog();
  await expect(dialog.getByRole("radio", { name: "Tables and indexes" })).toBeChecked();
  await dialog.getByRole("radio", { name: "Everything" }).check();
  await dialog.getByRole("button", { name: "Verify" }).click();
  await expect(dialog).toBeHidden();
  const fact = page.locator(".fact").filter({ has: page.locator("dt", { hasText: "Verified" }) });
  await expect(fact.locator("dd")).toContainText("Verified", { timeout: 150_000 });
  await expect(fact.locator("span[title]")).toHaveAttribute("title", /all content/);
});

test("a backup is restored into a new namespace", async ({ page }) => {
  test.setTimeout(300_000);
  const { namespace, backup, id } = stage();
  const into = `console-copy-${id}`;
  const run = new RunPage(page);
  await run.open(`/backups/${namespace}/${backup}`);
  await run.button("Restore").click();
  const dialog = run.dialog();
  await expect(dialog.getByRole("radio", { name: "Into a new namespace" })).toBeChecked();
  await dialog.getByRole("textbox", { name: "New namespace" }).fill(into);
  await dialog.getByRole("button", { name: "Start restore" }).click();
  await expect(page).toHaveURL(/\/restores\//);
  await run.completes(240_000);
  await expect(page.locator(".fact").filter({ hasText: "Objects" })).toContainText(/\d+ of \d+ written/);
  const cluster = new Cluster();
  const settings = await cluster.get(`/api/v1/namespaces/${into}/configmaps/settings`);
  expect(settings.data.greeting).toBe("hello");
  await until("the restored application is ready", 90, async () => (await cluster.isReady(into)) || undefined);
});

test("a restore into a namespace that holds the objects is refused and changes nothing", async ({ page }) => {
  test.setTimeout(120_000);
  const { namespace, backup } = stage();
  const run = new RunPage(page);
  await run.open(`/backups/${namespace}/${backup}`);
  await run.button("Restore").click();
  await run.dialog().getByRole("radio", { name: `Into ${namespace}` }).check();
  await run.dialog().getByRole("button", { name: "Start restore" }).click();
  await expect(run.state()).toHaveText("Failed", { timeout: 90_000 });
  await expect(page.getByRole("alert")).toContainText("exists already");
});

test("a deleted backup says what stays, and comes back by its location", async ({ page }) => {
  test.setTimeout(180_000);
  const { unprotected, target, id } = stage();
  const frame = new Frame(page);
  await frame.open(`/backups?namespace=${unprotected}`);
  const link = page.locator("[data-row]").first();
  const name = await link.textContent();
  await link.click();
  const run = new RunPage(page);
  const location = await page.locator(".fact").filter({ hasText: "Location" }).locator("code").textContent();
  await run.button("Delete").click();
  await expect(run.dialog()).toContainText("The point stays on the target");
  await run.dialog().getByRole("button", { name: "Delete" }).click();
  await expect(page).toHaveURL(/\/backups$/);
  await expect(frame.row(name!)).toHaveCount(0, { timeout: 30_000 });

  const into = `console-found-${id}`;
  await frame.link("Restores").click();
  await page.getByRole("button", { name: "Restore by location" }).click();
  await frame.dialog().getByRole("combobox", { name: "Target" }).selectOption(`${target.namespace}/${target.name}`);
  await frame.dialog().getByRole("textbox", { name: "Location" }).fill(location!);
  await frame.dialog().getByRole("textbox", { name: "New namespace" }).fill(into);
  await frame.dialog().getByRole("button", { name: "Start restore" }).click();
  await run.completes(120_000);
  const settings = await new Cluster().get(`/api/v1/namespaces/${into}/configmaps/settings`);
  expect(settings.data.greeting).toBe("hello");
});
