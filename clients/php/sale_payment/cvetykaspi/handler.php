<?php

namespace Sale\Handlers\PaySystem;

use Bitrix\Main\Application;
use Bitrix\Main\Error;
use Bitrix\Main\Localization\Loc;
use Bitrix\Main\Request;
use Bitrix\Main\Type\DateTime;
use Bitrix\Sale\Payment;
use Bitrix\Sale\PaySystem\ICheckable;
use Bitrix\Sale\PaySystem\IRefund;
use Bitrix\Sale\PaySystem\Logger;
use Bitrix\Sale\PaySystem\ServiceHandler;
use Bitrix\Sale\PaySystem\ServiceResult;
use Integration\PaymentService\Amount;
use Integration\PaymentService\BadRequest;
use Integration\PaymentService\BitrixOrders;
use Integration\PaymentService\BitrixPaymentId;
use Integration\PaymentService\Checkout;
use Integration\PaymentService\OrderAccess;
use Integration\PaymentService\OutcomeUnknown;
use Integration\PaymentService\PaymentServiceException;
use Integration\PaymentService\Refunds;
use Integration\PaymentService\SellerRule;
use Integration\PaymentService\SiteSettings;

Loc::loadMessages(__FILE__);

if (!class_exists(Checkout::class)) {
    require_once Application::getDocumentRoot() . '/local/classes/Integration/PaymentService/include.php';
}

/**
 * Kaspi under "Магазин → Платёжные системы".
 *
 * Bitrix finds this class by its folder: the folder's name and "Handler", and PHP does not mind the case. Every decision is made
 * in the client (Checkout, SellerRule, Refunds, BitrixOrders); this class translates requests, pages and results for Bitrix.
 */
class CvetyKaspiHandler extends ServiceHandler implements IRefund, ICheckable
{
    /** Seconds that the site waits for a change when a page asks: a process of PHP is busy for as long. */
    const WAIT_S = 5.0;

    private $answer = [];

    public static function getIndicativeFields()
    {
        return ['BX_HANDLER' => 'CVETYKASPI'];
    }

    protected static function isMyResponseExtended(Request $request, $paySystemId)
    {
        return (string) $request->get('BX_PAYSYSTEM_CODE') === (string) $paySystemId;
    }

    public function getPaymentIdFromRequest(Request $request)
    {
        return (int) $request->get('PAYMENT_ID');
    }

    public function getCurrencyList()
    {
        return [BitrixOrders::CURRENCY];
    }

    /**
     * Show the page that fits where the payment stands. Money is asked for only when the buyer presses the page's own button.
     *
     * @return ServiceResult
     */
    public function initiatePay(Payment $payment, ?Request $request = null)
    {
        $request = $request ?? Application::getInstance()->getContext()->getRequest();
        $result = new ServiceResult();
        try {
            $standing = $this->standing($payment, $request);
        } catch (PaymentServiceException $problem) {
            $this->note('initiatePay', $problem);
            $standing = ['step' => Checkout::CLOSED, 'attempt' => 0, 'payment' => null, 'reason' => 'settings'];
        } catch (\Throwable $problem) {
            $this->note('initiatePay', $problem);
            // After a press of the button nobody can say what was sent: the waiting page finds out.
            $unsure = $request->isPost() ? ['step' => Checkout::WAITING, 'reason' => 'unknown'] : ['step' => Checkout::AWAY, 'reason' => 'away'];
            $standing = $unsure + ['attempt' => 0, 'payment' => null];
        }
        $made = $standing['payment'];
        if ($made !== null && $standing['step'] === Checkout::WAITING && $payment->getField('PS_INVOICE_ID') !== $made['id']) {
            $result->setPsData($this->psData($made));
        }
        $this->setExtraParams($this->pageOf($payment, $standing));
        $shown = $this->showTemplate($payment, $this->templateOf($standing));
        if ($shown->isSuccess()) {
            $result->setTemplate($shown->getTemplate());
        } else {
            $result->addErrors($shown->getErrors());
        }

        return $result;
    }

    /**
     * A page asks whether its payment has changed. Bitrix does not mark anything here: BitrixOrders does.
     *
     * @return ServiceResult
     */
    public function processRequest(Payment $payment, Request $request)
    {
        $id = BitrixPaymentId::of($payment);
        if (!hash_equals($this->tokenOf($id), (string) $request->get('TOKEN'))) {
            $this->answer = ['step' => 'forbidden'];

            return new ServiceResult();
        }
        if (session_status() === PHP_SESSION_ACTIVE) {
            session_write_close();  // the buyer's other pages need not wait for this one
        }
        $standing = self::fitting($payment, $this->checkout()->look($id, self::WAIT_S));
        $this->settle($id, $standing);
        $this->answer = ['step' => $standing['step'], 'payment' => $standing['payment']['id'] ?? null];

        return new ServiceResult();
    }

    public function sendResponse(ServiceResult $result, Request $request)
    {
        header('Content-Type: application/json');
        header('Cache-Control: no-store');
        echo json_encode($this->answer);

        return '';
    }

    /**
     * The manager's button "check the payment".
     *
     * @return ServiceResult
     */
    public function check(Payment $payment)
    {
        $result = new ServiceResult();
        $said = null;
        try {
            $id = BitrixPaymentId::of($payment);
            $standing = $this->checkout()->look($id);
            // Whatever the step: what was paid back wholly may be paid anew, and has to be marked.
            $word = $this->orders()->settle($id, $standing['payment'] ?? []);
            if ($standing['step'] === Checkout::AWAY) {
                $said = Loc::getMessage('SALE_HPS_CVETYKASPI_AWAY');
            } elseif (in_array($word, OrderAccess::NEEDS_PEOPLE, true)) {
                $said = Loc::getMessage('SALE_HPS_CVETYKASPI_NEEDS_PEOPLE', ['#WORD#' => $word]);
            } elseif ($word === '' && $standing['payment'] !== null) {
                $result->setPsData($this->psData($standing['payment']));
            }
        } catch (\Throwable $problem) {
            $this->note('check', $problem);
            $said = $problem->getMessage();
        }
        if ($said !== null) {
            // In a field of the payment: Bitrix shows no error of this method.
            $result->setPsData(['PS_STATUS_MESSAGE' => $said, 'PS_RESPONSE_DATE' => new DateTime()]);
        }

        return $result;
    }

    /**
     * Pay back from the order form (always the whole sum), or a part by Service::refund($payment, $sum).
     *
     * @param float $refundableSum tenge
     * @return ServiceResult
     */
    public function refund(Payment $payment, $refundableSum)
    {
        $result = new ServiceResult();
        try {
            $id = BitrixPaymentId::of($payment);
            $settings = new SiteSettings();
            $done = (new Refunds($settings->client(), (string) $settings->folder()))->payBack(
                $id,
                (string) $payment->getField('PAY_VOUCHER_NUM'),
                Amount::tiyn((float) $refundableSum),
                BitrixOrders::refundedOf($payment)
            );
        } catch (PaymentServiceException $problem) {
            $this->note('refund', $problem);
            $text = $problem->getMessage();
            if ($problem instanceof OutcomeUnknown) {
                $text = Loc::getMessage('SALE_HPS_CVETYKASPI_REFUND_UNKNOWN') . ' ' . $text;
                try {
                    $this->orders()->mark($id, $text);
                } catch (\Throwable $unmarked) {
                    $this->note('refund', $unmarked);  // the error below is shown all the same
                }
            }
            $result->addError(new Error($text, $problem->getErrorCode()));

            return $result;
        }
        $tiyn = Amount::tiyn($done['amount']);
        $refunded = Amount::tiyn($done['total_refunded_amount']);
        $set = $payment->setFields(BitrixOrders::refundFacts($payment, $done + ['status' => 'refunded'], $tiyn, $refunded));
        if (!$set->isSuccess()) {
            Logger::addError(self::class . ': refund: the money is back, and Bitrix refused its fields: ' . implode(' ', $set->getErrorMessages()));
        }
        if ($refunded >= $tiyn) {
            $payment->setPaid('N');  // Bitrix does so itself only when the order form asked
            $result->setOperationType(ServiceResult::MONEY_LEAVING);
        }

        return $result;
    }

    // --- inside

    private function standing(Payment $payment, Request $request): array
    {
        $id = BitrixPaymentId::of($payment);
        if ($payment->getOrder()->isCanceled()) {
            return ['step' => Checkout::CLOSED, 'attempt' => 0, 'payment' => null, 'reason' => 'cancelled'];
        }
        $isAsked = $request->isPost() && (string) $request->getPost('CVETYKASPI_PAYMENT') === (string) $payment->getId() && check_bitrix_sessid();
        $standing = $isAsked && !$payment->isPaid() ? $this->pay($payment, $id, $request) : $this->checkout()->look($id);
        $standing = self::fitting($payment, $standing);
        if ($standing['step'] === Checkout::FORM) {
            if ($payment->isPaid()) {
                return ['step' => Checkout::PAID, 'payment' => null, 'reason' => ''] + $standing;
            }
            if ($payment->isReturn()) {
                return ['step' => Checkout::CLOSED, 'reason' => 'refunded'] + $standing;
            }
            $this->sellerOf($payment);  // a form that cannot be paid is not shown
        }
        try {
            $word = $this->settle($id, $standing);
        } catch (\Throwable $problem) {
            $this->note('settle', $problem);  // the event comes again; the buyer has paid
            $word = '';
        }

        return in_array($word, OrderAccess::NEEDS_PEOPLE, true) ? ['reason' => 'people'] + $standing : $standing;
    }

    /** What is open at Kaspi is shown as long as it is for this payment as it is now: nobody pays a sum that changed, or twice. */
    private static function fitting(Payment $payment, array $standing): array
    {
        if ($standing['step'] !== Checkout::WAITING || $standing['payment'] === null) {
            return $standing;
        }
        if ($payment->isPaid()) {
            return ['step' => Checkout::PAID, 'payment' => null, 'reason' => ''] + $standing;
        }

        return BitrixOrders::misfit($payment, $standing['payment']) === '' ? $standing : ['step' => Checkout::CLOSED, 'payment' => null, 'reason' => 'changed'] + $standing;
    }

    private function pay(Payment $payment, BitrixPaymentId $id, Request $request): array
    {
        $attempt = (int) $request->getPost('CVETYKASPI_ATTEMPT');
        $order = $payment->getOrder();
        $asked = [
            'shop_id' => $this->sellerOf($payment),
            'amount' => $payment->getSum(),
            'message' => strtr((string) $this->getBusinessValue($payment, 'CVETYKASPI_MESSAGE'), [
                '#ORDER_NUMBER#' => (string) $order->getField('ACCOUNT_NUMBER'),
                '#ORDER_ID#' => (string) $order->getId(),
                '#PAYMENT_NUMBER#' => (string) $payment->getField('ACCOUNT_NUMBER'),
            ]),
            'metadata' => ['bitrix_order' => (string) $order->getId(), 'bitrix_payment' => (string) $payment->getId()],
        ];
        $way = $this->ways($payment);
        if ((string) $request->getPost('CVETYKASPI_WAY') === 'link' && in_array('link', $way, true)) {
            return $this->checkout()->pay($id, $asked, $attempt);
        }
        $phone = self::phone((string) $request->getPost('CVETYKASPI_PHONE'));
        if ($phone === '' || !in_array('phone', $way, true)) {
            $standing = $this->checkout()->look($id);

            return $standing['step'] === Checkout::FORM ? ['reason' => 'phone'] + $standing : $standing;
        }

        return $this->checkout()->pay($id, ['phone' => $phone] + $asked, $attempt);
    }

    /** @throws BadRequest when it is not known whose money this is, or the payment is not in tenge */
    private function sellerOf(Payment $payment): int
    {
        if ($payment->getField('CURRENCY') !== BitrixOrders::CURRENCY) {
            throw new BadRequest('Kaspi takes tenge only.');
        }

        return SellerRule::shopOf($payment);
    }

    /**
     * Eleven digits that begin with 7; '' for what is no phone of Kazakhstan.
     *
     * Ten digits are not completed: they may be eleven of which one is missing, and then the invoice would be a stranger's.
     */
    private static function phone(string $typed): string
    {
        $digits = preg_replace('/^8/', '7', preg_replace('/\D/', '', $typed));

        return preg_match('/^77\d{9}$/D', $digits) ? $digits : '';
    }

    /** @return string[] in which ways the buyer may pay */
    private function ways(Payment $payment): array
    {
        $way = (string) $this->getBusinessValue($payment, 'CVETYKASPI_WAY');

        return ['PHONE' => ['phone'], 'LINK' => ['link']][$way] ?? ['phone', 'link'];
    }

    private function settle(BitrixPaymentId $id, array $standing): string
    {
        return $standing['step'] === Checkout::PAID ? $this->orders()->settle($id, $standing['payment'] ?? []) : '';
    }

    private function templateOf(array $standing): string
    {
        if ($standing['step'] === Checkout::WAITING) {
            $link = (string) ($standing['payment']['payment_link'] ?? '');

            return preg_match('#^https?://#D', $link) ? 'link' : 'waiting';
        }

        return $standing['step'] === Checkout::FORM ? 'form' : 'notice';
    }

    /** What the templates are told, beside the settings of the payment system. */
    private function pageOf(Payment $payment, array $standing): array
    {
        $made = $standing['payment'];
        $sum = $standing['step'] === Checkout::WAITING && isset($made['amount']) ? (float) $made['amount'] : $payment->getSum();
        $page = [
            'PAYMENT_ID' => (int) $payment->getId(),
            'STEP' => $standing['step'],
            'REASON' => $standing['reason'],
            'ATTEMPT' => $standing['attempt'],
            'SUM' => SaleFormatCurrency($sum, BitrixOrders::CURRENCY),
            'WAYS' => $this->ways($payment),
            'PHONE' => (string) $this->getBusinessValue($payment, 'BUYER_PERSON_PHONE'),
            'PHONE_LAST4' => (string) ($made['phone_last4'] ?? ''),
            // With one slash: with two it would be the address of another site.
            'HERE' => '/' . ltrim(Application::getInstance()->getContext()->getRequest()->getRequestUri(), '/'),
            'LINK' => (string) ($made['payment_link'] ?? ''),
            'QR' => '',
            'ASK' => '',
        ];
        if ($standing['step'] === Checkout::WAITING) {
            $page['ASK'] = '/bitrix/tools/sale_ps_result.php?' . http_build_query([
                'BX_HANDLER' => 'CVETYKASPI',
                'BX_PAYSYSTEM_CODE' => $this->service->getField('ID'),
                'PAYMENT_ID' => $payment->getId(),
                'TOKEN' => $this->tokenOf(BitrixPaymentId::of($payment)),
            ]);
        }
        if ($page['LINK'] !== '') {
            try {
                $page['QR'] = base64_encode((new SiteSettings())->client()->getPaymentQr($made['id']));
            } catch (PaymentServiceException $problem) {
                $this->note('qr', $problem);  // the link is enough
            }
        }

        return $page;
    }

    private function psData(array $made): array
    {
        return [
            'PS_INVOICE_ID' => (string) $made['id'],
            'PS_STATUS_CODE' => substr((string) ($made['status'] ?? $made['state']), 0, 50),
            'PS_STATUS_DESCRIPTION' => 'Kaspi ' . ($made['external_id'] ?? '-') . ', shop ' . $made['shop_id'] . ', ' . $made['state'],
            'PS_RESPONSE_DATE' => new DateTime(),
        ];
    }

    private function checkout(): Checkout
    {
        $settings = new SiteSettings();

        return new Checkout($settings->client(), (string) $settings->folder());
    }

    private function orders(): BitrixOrders
    {
        return new BitrixOrders();
    }

    private function tokenOf(BitrixPaymentId $id): string
    {
        return Checkout::token($id, (new SiteSettings())->required('payment_service_key'));
    }

    private function note(string $where, \Throwable $problem): void
    {
        $code = $problem instanceof PaymentServiceException ? ' ' . $problem->getErrorCode() : '';
        Logger::addError(self::class . ": $where:$code " . $problem->getMessage());
    }
}
