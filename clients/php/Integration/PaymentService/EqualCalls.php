<?php

namespace Integration\PaymentService;

/**
 * Calls that move money and that Kaspi would do twice: an equal one within a minute is the same one, as on the service.
 *
 * A double click, a reload and two tabs ask for the same. One at a time is made; the others are told what came of it. What
 * was refused, or not sent, may be asked for at once. Files are named by a digest and hold Kaspi's answer.
 */
final class EqualCalls
{
    const WINDOW_S = 60;

    private $folder;

    /** @param string|null $folder the client's own folder; null: nothing is remembered */
    public function __construct(?string $folder)
    {
        $this->folder = $folder === null ? null : $folder . '/equal';
    }

    /**
     * Make a call, unless its equal was made.
     *
     * @param string $words what makes two calls equal
     * @param callable $call returns an array whose outcome is accepted or rejected, or throws
     * @throws OutcomeUnknown when nobody knows what came of its equal
     * @throws Unavailable when the folder cannot be written; nothing was sent
     */
    public function once(string $words, callable $call): array
    {
        if ($this->folder === null) {
            return $call();
        }
        $name = hash('sha256', $words);
        $answer = Files::locked($this->folder . '/' . substr($name, 0, 2) . '.lock', true, function () use ($name, $call): ?array {
            $this->forgetOld();
            $path = "$this->folder/$name.json";
            $kept = Files::json($path);
            if (isset($kept['answer'])) {
                return $kept['answer'];
            }
            if ($kept !== null) {
                throw new OutcomeUnknown('The same was asked for less than a minute ago, and it is not known whether Kaspi did it: look it up.');
            }
            // Before the call: the page may die in it.
            if (!Files::write($path, '{"answer":null}')) {
                return null;
            }
            try {
                $answer = $call();
            } catch (OutcomeUnknown $unknown) {
                touch($path);
                throw $unknown;
            } catch (PaymentServiceException $notDone) {
                @unlink($path);
                throw $notDone;
            }
            if ($answer['outcome'] === 'accepted') {
                Files::write($path, Http::encode(['answer' => $answer]));
            } else {
                @unlink($path);
            }

            return $answer;
        });
        if ($answer === null) {
            throw new Unavailable('The folder of the payment service\'s client cannot be written. Nothing was sent.');
        }

        return $answer;
    }

    private function forgetOld(): void
    {
        clearstatcache();
        foreach (glob($this->folder . '/*.json') ?: [] as $path) {
            if (@filemtime($path) < time() - self::WINDOW_S) {
                @unlink($path);
            }
        }
    }
}
