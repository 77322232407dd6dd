/** Small things that all pages use. */
import htm from 'htm';
import { type ComponentChildren, h, type VNode } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { age } from '../../core/format.ts';
import { ask, Refusal } from './api.ts';

export const html = htm.bind(h) as unknown as (
  strings: TemplateStringsArray,
  ...values: unknown[]
) => VNode;

/** The time, told again each second. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

export interface Answer<Value> {
  readonly value: Value | undefined;
  readonly refusal: Refusal | undefined;
  again(): void;
}

/**
 * Ask, and ask again every so often while somebody looks, one question at a time. What was known of
 * this path stays until it is known better.
 *
 * @param path  undefined: nothing is asked
 */
export function useAnswer<Value>(path: string | undefined, everyMs = 2_000): Answer<Value> {
  const [known, setKnown] = useState<{
    path: string | undefined;
    value?: Value;
    refusal?: Refusal;
  }>({ path });
  const [round, setRound] = useState(0);
  useEffect(() => {
    let isWanted = true;
    let isAsking = false;
    const look = async () => {
      if (path === undefined || document.hidden || isAsking) return;
      isAsking = true;
      try {
        const value = await ask<Value>(path);
        if (isWanted) setKnown({ path, value });
      } catch (error) {
        if (isWanted)
          setKnown((before) => ({
            ...(before.path === path ? before : { path }),
            refusal: error as Refusal,
          }));
      }
      isAsking = false;
    };
    void look();
    const timer = setInterval(() => void look(), everyMs);
    const onShown = () => void look();
    document.addEventListener('visibilitychange', onShown);
    return () => {
      isWanted = false;
      clearInterval(timer);
      document.removeEventListener('visibilitychange', onShown);
    };
  }, [path, everyMs, round]);
  const mine = known.path === path ? known : undefined;
  return {
    value: mine?.value,
    refusal: mine?.refusal,
    again: () => setRound((count) => count + 1),
  };
}

export function Trouble({ refusal }: { refusal: Refusal | undefined }) {
  if (!refusal) return null;
  return html`<p class="trouble" role="alert"><b>${refusal.code}</b> ${refusal.message}</p>`;
}

export const Badge = ({ status }: { status: string }) =>
  html`<span class=${`badge ${status}`}>${status}</span>`;
export const Ago = ({ since, now }: { since: number; now: number }) =>
  html`<time datetime=${new Date(since).toISOString()} title=${new Date(since).toLocaleString()}>${age(now - since)}</time>`;
export const Empty = ({ children }: { children?: ComponentChildren }) =>
  html`<p class="empty">${children}</p>`;
export const Code = ({ children }: { children?: ComponentChildren }) =>
  html`<code class="command">${children}</code>`;

/** A deed that asks why before it is done. */
export function Deed({
  label,
  isGrave,
  ask: question,
  onDo,
}: {
  label: string;
  isGrave?: boolean;
  ask: string;
  onDo: (reason: string) => Promise<unknown>;
}) {
  const [isOpen, setOpen] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [reason, setReason] = useState('');
  const [refusal, setRefusal] = useState<Refusal>();
  const field = useRef<HTMLInputElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (isOpen) field.current?.focus();
  }, [isOpen]);
  const close = () => {
    setOpen(false);
    setReason('');
    setRefusal(undefined);
    setTimeout(() => opener.current?.focus());
  };
  const go = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await onDo(reason);
      close();
    } catch (error) {
      setRefusal(error instanceof Refusal ? error : new Refusal('DEFECT', String(error), 0));
    }
    setBusy(false);
  };
  if (!isOpen)
    return html`<button ref=${opener} type="button" class=${isGrave ? 'grave' : ''} onClick=${() => setOpen(true)}>${label}</button>`;
  return html`<form class="deed" onSubmit=${go} onKeyDown=${(event: KeyboardEvent) => event.key === 'Escape' && close()}>
    <label>${question} <input ref=${field} value=${reason} maxlength="2000" onInput=${(event: InputEvent) => setReason((event.target as HTMLInputElement).value)} /></label>
    <button type="submit" class=${isGrave ? 'grave' : 'main'} disabled=${isBusy}>${isBusy ? '…' : label}</button>
    <button type="button" onClick=${close}>not now</button>
    <${Trouble} refusal=${refusal} />
  </form>`;
}
