import { expect, test } from "@playwright/test";
import { Frame } from "../pages/frame";
import { SignInPage } from "../pages/sign-in";
import { token } from "../support/environment";

// Nobody is signed in at the start of these tests.
test.use({ storageState: { cookies: [], origins: [] } });

test("a wrong token is refused and says why", async ({ page }) => {
  await page.goto("/");
  const signIn = new SignInPage(page);
  await signIn.withToken("not-a-token");
  await expect(signIn.trouble()).toContainText("Not signed in");
  await expect(page).toHaveURL(/sign-in/);
  await expect(signIn.submit()).toBeEnabled();
});

test("a kubeconfig with a plugin is refused by name", async ({ page }) => {
  await page.goto("/sign-in");
  const signIn = new SignInPage(page);
  await signIn.withKubeconfig(`
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://example.invalid"}}]
users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true}}}]
`);
  await expect(signIn.trouble()).toContainText("exec");
});

test("the right token leads to the page that was asked for, and the end of the session back to it", async ({
  page,
}) => {
  await page.goto("/restores?tab=kept");
  await expect(page).toHaveURL(/sign-in\?next=/);
  const signIn = new SignInPage(page);
  await signIn.withToken(token());
  await expect(page).toHaveURL(/\/restores\?tab=kept$/);
  const frame = new Frame(page);
  await frame.settled();
  // The token is nowhere in the browser; only the cookie that scripts cannot read.
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  expect(kept).not.toContain(token());

  // The session is ended elsewhere; the page notices by itself.
  const ended = await page.request.delete("/api/v1/session", { headers: { "x-holdfast-request": "1" } });
  expect(ended.ok()).toBe(true);
  await expect(page).toHaveURL(/sign-in\?next=%2Frestores%3Ftab%3Dkept/, { timeout: 30_000 });
  await expect(page.getByText("Your session has ended")).toBeVisible();
  await signIn.withToken(token());
  await expect(page).toHaveURL(/\/restores\?tab=kept$/);
});

test("signing out ends the session on the server", async ({ page }) => {
  await page.goto("/sign-in");
  await new SignInPage(page).withToken(token());
  await new Frame(page).settled();
  await page.getByRole("button", { name: "Sign out" }).click();
  await expect(page).toHaveURL(/sign-in/);
  expect((await page.request.get("/api/v1/session")).status()).toBe(401);
});
