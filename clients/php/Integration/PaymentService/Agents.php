<?php

namespace Integration\PaymentService;

/**
 * For Bitrix's agents, on a site that has no cron: CAgent runs the text and keeps what it returns as the next one.
 *
 *     \Integration\PaymentService\Agents::replay();
 */
final class Agents
{
    const EVERY_S = 300;

    /** Send the reports that the journal keeps. An agent that throws is never run again, so this one does not throw. */
    public static function replay(): string
    {
        try {
            (new Client())->replayJournal();
        } catch (\Throwable $problem) {
            (new Log((new SiteSettings())->folder()))->error('agent.failed', ['because' => $problem->getMessage()]);
        }

        return '\\' . self::class . '::replay();';
    }

    /** Have Bitrix run them; once, however often it is called. */
    public static function register(): void
    {
        \CAgent::AddAgent('\\' . self::class . '::replay();', '', 'N', self::EVERY_S);
    }
}
