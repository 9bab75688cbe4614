/** More is not kept for later. */
const MOST_KEPT = 8;
/** Memory that nobody wanted for so long is given back to the system. */
const KEPT_MS = 10_000;

/**
 * Memory for bytes on their way, in portions of one size that are used again. New memory for each file costs more
 * processor than reading, hashing and sending what comes into it.
 */
export class PortionMemory {
  private readonly portionBytes: number;
  private free: Buffer[] = [];
  private forgetting: NodeJS.Timeout | undefined;

  constructor(portionBytes: number) {
    this.portionBytes = portionBytes;
  }

  borrow(): BorrowedMemory {
    const borrowed: Buffer[] = [];
    const take = (bytes: number) => {
      if (bytes > this.portionBytes) return Buffer.allocUnsafeSlow(bytes);
      const portion = this.free.pop() ?? Buffer.allocUnsafeSlow(this.portionBytes);
      borrowed.push(portion);
      return portion.subarray(0, bytes);
    };
    return { take, giveBack: () => this.keep(borrowed.splice(0)) };
  }

  private keep(portions: Buffer[]): void {
    this.free.push(...portions.slice(0, MOST_KEPT - this.free.length));
    clearTimeout(this.forgetting);
    this.forgetting = setTimeout(() => {
      this.free = [];
    }, KEPT_MS).unref();
  }
}

export interface BorrowedMemory {
  /** So many bytes; what is in them is of no meaning. */
  take(bytes: number): Buffer;
  /** All that was taken. Only when nobody can read or write it any more: what failed may still be under way, and keeps it. */
  giveBack(): void;
}
