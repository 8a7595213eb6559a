import type { Page } from "@playwright/test";

/** The sign-in page. */
export class SignInPage {
  constructor(private readonly page: Page) {}

  token = () => this.page.getByLabel("Bearer token");
  kubeconfig = () => this.page.getByLabel("Kubeconfig", { exact: true });
  submit = () => this.page.getByRole("button", { name: "Sign in" });
  trouble = () => this.page.getByRole("alert");

  async withToken(token: string): Promise<void> {
    await this.token().fill(token);
    await this.submit().click();
  }

  async withKubeconfig(text: string): Promise<void> {
    await this.page.getByRole("tab", { name: "Kubeconfig" }).click();
    await this.kubeconfig().fill(text);
    await this.submit().click();
  }
}
