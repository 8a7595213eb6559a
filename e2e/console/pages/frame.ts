import { expect, type Locator, type Page } from "@playwright/test";

/** What every page of a signed-in person has. */
export class Frame {
  constructor(protected readonly page: Page) {}

  link = (name: string): Locator =>
    this.page.getByRole("navigation", { name: "Main" }).getByRole("link", { name });
  connection = (state: "Live" | "Connection lost"): Locator =>
    this.page.getByRole("status").filter({ hasText: state });
  dialog = (): Locator => this.page.getByRole("dialog");
  search = (): Locator => this.page.getByRole("searchbox");
  row = (name: string): Locator =>
    this.page.getByRole("row").filter({ has: this.page.getByRole("link", { name, exact: true }) });

  /** Waits until the page shows what the stream brought. */
  async settled(): Promise<void> {
    await expect(this.connection("Live")).toBeVisible();
    await expect(this.page.getByRole("status", { name: "Loading" })).toHaveCount(0);
  }

  async open(path: string): Promise<void> {
    await this.page.goto(path);
    await this.settled();
  }
}
