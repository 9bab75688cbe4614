import { type Direction, FaultProxy } from './faultProxy.ts';

/** A way to a server that is lost for good once so many bytes have passed, until it is mended. */
export class FragileWay implements AsyncDisposable {
  isLost = false;
  private left: Record<Direction, number> = unbreakable();
  private proxy: FaultProxy | undefined;

  static async to(endpoint: string): Promise<FragileWay> {
    const way = new FragileWay();
    const guard = (direction: Direction) => (bytes: Buffer) => way.pass(direction, bytes);
    const dialogue = () => ({ request: guard('request'), response: guard('response') });
    way.proxy = await FaultProxy.to(Number(new URL(endpoint).port), dialogue);
    return way;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.proxy!.port}`;
  }

  /** All connections together; those that come later are lost too. */
  breaksAfter(bytes: number, direction: Direction): void {
    this.left = { ...unbreakable(), [direction]: bytes };
  }

  mend(): void {
    this.left = unbreakable();
    this.isLost = false;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.proxy![Symbol.asyncDispose]();
  }

  private pass(direction: Direction, bytes: Buffer) {
    this.left[direction] -= bytes.length;
    if (this.left[direction] < 0) this.isLost = true;
    if (!this.isLost) return [{ bytes }];
    this.proxy!.cut();
    return [];
  }
}

const unbreakable = (): Record<Direction, number> => ({ request: Infinity, response: Infinity });
