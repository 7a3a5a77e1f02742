<?php

namespace Integration\PaymentService;

/** Tells the people of a Bitrix site what no program may decide: in the log, in Bitrix's event log and above its admin pages. */
final class People
{
    const AUDIT_TYPE = 'PAYMENT_SERVICE';

    private $log;

    public function __construct(Log $log)
    {
        $this->log = $log;
    }

    /**
     * @param string $what a sentence, without a whole phone or a secret
     * @param int $order the ID of the order
     */
    public function tell(int $order, string $what, array $facts = []): void
    {
        $this->log->error('bitrix.needs_people', ['order' => $order, 'what' => $what] + $facts);
        $this->log->count('bitrix.needs_people');
        if (class_exists('CEventLog')) {
            \CEventLog::Add([
                'SEVERITY' => 'WARNING',
                'AUDIT_TYPE_ID' => self::AUDIT_TYPE,
                'MODULE_ID' => 'sale',
                'ITEM_ID' => (string) $order,
                'DESCRIPTION' => $what,
            ]);
        }
        if (class_exists('CAdminNotify')) {
            \CAdminNotify::Add([
                // One for each order and sentence: what is told again does not hide what was told before.
                'TAG' => 'payment_service_' . $order . '_' . substr(md5($what), 0, 8),
                'MODULE_ID' => 'sale',
                'NOTIFY_TYPE' => 'E',
                'ENABLE_CLOSE' => 'Y',
                'MESSAGE' => htmlspecialchars("Kaspi, order $order: $what", ENT_QUOTES, 'UTF-8')
                    . " <a href=\"/bitrix/admin/sale_order_view.php?ID=$order\">$order</a>",
            ]);
        }
    }
}
