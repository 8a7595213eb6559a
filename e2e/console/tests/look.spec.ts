import { expect, test } from "@playwright/test";
import { Frame } from "../pages/frame";
import { stage } from "../support/environment";

const pages: Record<string, () => string> = {
  namespaces: () => "/namespaces",
  targets: () => "/targets",
  target: () => `/targets/${stage().target.namespace}/${stage().target.name}`,
  "target-conditions": () => `/targets/${stage().target.namespace}/${stage().target.name}?tab=conditions`,
  "target-new": () => "/targets/new",
  plans: () => "/backupplans",
  plan: () => `/backupplans/${stage().namespace}/${stage().plan}`,
  "plan-new": () => `/backupplans/new?namespace=${stage().unprotected}`,
  backups: () => "/backups",
  backup: () => `/backups/${stage().namespace}/${stage().backup}`,
  "backup-conditions": () => `/backups/${stage().namespace}/${stage().backup}?tab=conditions`,
  "backup-yaml": () => `/backups/${stage().namespace}/${stage().backup}?tab=yaml`,
  restores: () => "/restores",
  gone: () => "/backups/nowhere/nothing",
};

for (const colorScheme of ["light", "dark"] as const) {
  test.describe(colorScheme, () => {
    test.use({ colorScheme });

    for (const [name, path] of Object.entries(pages)) {
      test(`${name} shows without an error`, async ({ page }) => {
        const troubles: string[] = [];
        page.on("console", (message) => {
          // The sandbox serves plain HTTP, where browsers announce that they leave out this one protection.
          const expected = message.text().startsWith("The Cross-Origin-Opener-Policy header has been ignored");
          if ((message.type() === "error" || message.type() === "warning") && !expected) {
            troubles.push(message.text());
          }
        });
        page.on("pageerror", (error) => troubles.push(error.message));
        page.on("response", (answer) => {
          if (answer.status() >= 400) {
            troubles.push(`${answer.status()} ${answer.url()}`);
          }
        });
        const frame = new Frame(page);
        await frame.open(path());
        await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
        await expect(page.getByRole("alert")).toHaveCount(0);
        const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        const [red] = background.match(/\d+/g)!.map(Number);
        expect(colorScheme === "dark" ? red < 64 : red > 192, background).toBe(true);
        await page.screenshot({ path: `test-results/screens/${name}-${colorScheme}.png` });

        // On a phone nothing may lie outside the screen.
        await page.setViewportSize({ width: 390, height: 800 });
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        expect(overflow, "horizontal overflow on a narrow screen").toBeLessThanOrEqual(0);
        await page.screenshot({ path: `test-results/screens/${name}-${colorScheme}-narrow.png` });
        expect(troubles).toEqual([]);
      });
    }
  });
}

test("a chosen theme stays after a reload and beats the system's", async ({ page }) => {
  await page.emulateMedia({ colorScheme: "light" });
  const frame = new Frame(page);
  await frame.open("/namespaces");
  await page.getByRole("button", { name: "Dark theme" }).click();
  await page.reload();
  await frame.settled();
  await expect(page.locator("html")).toHaveAttribute("data-theme", "dark");
  await page.getByRole("button", { name: "System theme" }).click();
  await expect(page.locator("html")).not.toHaveAttribute("data-theme");
});

test("a lost connection is shown, and ends by itself", async ({ page, context }) => {
  const frame = new Frame(page);
  await frame.open("/backups");
  await context.setOffline(true);
  await expect(frame.connection("Connection lost")).toBeVisible({ timeout: 30_000 });
  await expect(page.getByRole("alert")).toContainText("What you see may be old");
  // What was there stays readable.
  await expect(page.locator("[data-row]").first()).toBeVisible();
  await context.setOffline(false);
  await expect(frame.connection("Live")).toBeVisible({ timeout: 30_000 });
  await expect(page.getByRole("alert")).toHaveCount(0);
});
