import { expect, test } from "@playwright/test";
import { Frame } from "../pages/frame";
import { stage, token } from "../support/environment";

test("signing in needs no mouse", async ({ browser }) => {
  const context = await browser.newContext({ storageState: { cookies: [], origins: [] } });
  const page = await context.newPage();
  await page.goto("/");
  await expect(page.getByLabel("Bearer token")).toBeVisible();
  for (let presses = 0; presses < 10; presses++) {
    await page.keyboard.press("Tab");
    if (await page.getByLabel("Bearer token").evaluate((field) => field === document.activeElement)) {
      break;
    }
  }
  await page.keyboard.insertText(token());
  await page.keyboard.press("Enter");
  await new Frame(page).settled();
  await context.close();
});

test("pages are reached, searched and opened by keys", async ({ page }) => {
  const { namespace, backup } = stage();
  const frame = new Frame(page);
  await frame.open("/namespaces");
  await page.keyboard.press("g");
  await page.keyboard.press("b");
  await expect(page).toHaveURL(/\/backups$/);
  await frame.settled();
  await page.keyboard.press("/");
  await expect(frame.search()).toBeFocused();
  await page.keyboard.type(backup);
  await expect(frame.row(backup)).toBeVisible();
  await page.keyboard.press("Tab");
  await frame.search().blur();
  await page.keyboard.press("j");
  await expect(page.getByRole("link", { name: backup, exact: true })).toBeFocused();
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement!).outlineStyle);
  expect(outline).toBe("solid");
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(new RegExp(`/backups/${namespace}/${backup}$`));
});

test("the first stop of the tab key skips to the content", async ({ page }) => {
  await new Frame(page).open("/namespaces");
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: "Skip to content" })).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(page.locator("#content")).toBeFocused();
});

test("a dialog takes the focus, keeps it, closes on Escape and gives it back", async ({ page }) => {
  const { namespace, backup } = stage();
  const frame = new Frame(page);
  await frame.open(`/backups/${namespace}/${backup}`);
  const restore = page.getByRole("button", { name: "Restore", exact: true });
  await restore.focus();
  await page.keyboard.press("Enter");
  await expect(frame.dialog()).toBeVisible();
  for (let presses = 0; presses < 12; presses++) {
    const where = await page.evaluate(() => {
      const active = document.activeElement;
      // Between the last and the first stop the focus may rest on the browser itself.
      return active === document.body || active!.closest("dialog") !== null;
    });
    expect(where).toBe(true);
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Escape");
  await expect(frame.dialog()).toHaveCount(0);
  await expect(restore).toBeFocused();
});

test("the list of keys opens and closes by keys", async ({ page }) => {
  const frame = new Frame(page);
  await frame.open("/targets");
  await page.keyboard.press("?");
  await expect(frame.dialog()).toContainText("Search this list");
  await page.keyboard.press("Escape");
  await expect(frame.dialog()).toHaveCount(0);
});

test("a backup is started with keys alone", async ({ page }) => {
  test.setTimeout(120_000);
  const { namespace, plan } = stage();
  const frame = new Frame(page);
  await frame.open(`/backupplans/${namespace}/${plan}`);
  await page.getByRole("button", { name: "Back up now" }).first().focus();
  await page.keyboard.press("Enter");
  await expect(frame.dialog()).toBeVisible();
  // A radio button has the focus: the arrow chooses, Enter sends the form.
  await page.keyboard.press("ArrowDown");
  await expect(frame.dialog().getByRole("radio", { name: "Full" })).toBeChecked();
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(new RegExp(`/backups/${namespace}/`));
});
