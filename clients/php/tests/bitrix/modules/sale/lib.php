<?php
/** The module sale, as far as the payment system handler meets it. See main/include/prolog_before.php. */

namespace Bitrix\Sale\Internals {
    use Bitrix\Sale\Result;

    abstract class Entity
    {
        public $fields;

        public function getField($name)
        {
            if (!array_key_exists($name, $this->fields)) {
                throw new \LogicException("there is no field $name");
            }

            return $this->fields[$name];
        }

        public function getId()
        {
            return $this->getField('ID');
        }

        public function setField($name, $value)
        {
            if (!array_key_exists($name, $this->fields)) {
                throw new \LogicException("there is no field $name");
            }
            $result = $this->onFieldModify($name, $this->fields[$name], $value);
            if ($result->isSuccess()) {
                $this->fields[$name] = is_object($value) ? $value->text : $value;
            }

            return $result;
        }

        public function setFields(array $values)
        {
            $result = new Result();
            foreach ($values as $name => $value) {
                $result->addErrors($this->setField($name, $value)->getErrors());
            }

            return $result;
        }

        protected function onFieldModify($name, $oldValue, $value)
        {
            return new Result();
        }
    }
}

namespace Bitrix\Sale {
    class Result extends \Bitrix\Main\Entity\Result
    {
        private $warnings = [];

        public function addWarnings(array $errors)
        {
            $this->warnings = array_merge($this->warnings, $errors);

            return $this;
        }

        public function getWarnings()
        {
            return $this->warnings;
        }
    }

    class ResultError extends \Bitrix\Main\Error
    {
        public function __construct($message, $code = null)
        {
            parent::__construct($message, $code);
        }
    }

    class Registry
    {
        const REGISTRY_TYPE_ORDER = 'ORDER';
    }

    class Payment extends Internals\Entity
    {
        const RETURN_NONE = 'N';
        const RETURN_INNER = 'Y';
        const RETURN_PS = 'P';
        const FIELDS = [
            'PAID' => 'N', 'DATE_PAID' => null, 'EMP_PAID_ID' => null, 'PAY_SYSTEM_ID' => 0, 'PS_STATUS' => null, 'PS_STATUS_CODE' => null,
            'PS_STATUS_DESCRIPTION' => null, 'PS_STATUS_MESSAGE' => null, 'PS_SUM' => null, 'PS_CURRENCY' => null, 'PS_RESPONSE_DATE' => null,
            'PAY_VOUCHER_NUM' => null, 'PAY_VOUCHER_DATE' => null, 'XML_ID' => 'bx_5f9d3a', 'SUM' => 0.0, 'CURRENCY' => 'KZT', 'PAY_RETURN_NUM' => null,
            'PAY_RETURN_DATE' => null, 'PAY_RETURN_COMMENT' => null, 'IS_RETURN' => 'N', 'ACCOUNT_NUMBER' => '', 'PS_INVOICE_ID' => null,
            'MARKED' => 'N', 'REASON_MARKED' => null,
        ];
        private $order;
        private $loaded;

        public function __construct(array $fields, Order $order)
        {
            $this->fields = $fields + self::FIELDS;
            $this->loaded = $this->fields;
            $this->order = $order;
        }

        private function changed()
        {
            return array_udiff_assoc($this->fields, $this->loaded, static function ($a, $b) {
                return (int) ($a !== $b);
            });
        }

        /** What is saved: Bitrix writes the fields that were changed, and no others. */
        public function over(array $kept)
        {
            return $this->changed() + $kept + $this->fields;
        }

        public function saved()
        {
            $before = array_intersect_key($this->loaded, $this->changed());
            $this->loaded = $this->fields;
            if ($before !== []) {
                (new \Bitrix\Main\Event('sale', 'OnSalePaymentEntitySaved', ['ENTITY' => $this, 'VALUES' => $before]))->send();
            }
        }

        public function delete()
        {
            $result = new Result();
            if ($this->isPaid()) {
                return $result->addError(new ResultError('a paid payment is not deleted'));
            }
            $event = new \Bitrix\Main\Event('sale', 'OnBeforeSalePaymentEntityDeleted', ['ENTITY' => $this, 'VALUES' => []]);
            $event->send();
            foreach ($event->getResults() as $said) {
                if ($said->getType() === \Bitrix\Main\EventResult::ERROR) {
                    return $result->addError($said->getParameters());
                }
            }
            $this->order->forget($this);

            return $result;
        }

        public function getOrder()
        {
            return $this->order;
        }

        public function getCollection()
        {
            return $this->order->getPaymentCollection();
        }

        public function getOrderId()
        {
            return $this->order->getId();
        }

        public function getPersonTypeId()
        {
            return 1;
        }

        public function getPaymentSystemId()
        {
            return (int) $this->getField('PAY_SYSTEM_ID');
        }

        /** @return PaySystem\Service|null */
        public function getPaySystem()
        {
            return PaySystem\Manager::getObjectById($this->getPaymentSystemId());
        }

        public function isPaid()
        {
            return $this->getField('PAID') === 'Y';
        }

        public function isInner()
        {
            return ($this->fields['INNER'] ?? 'N') === 'Y';
        }

        public function isReturn()
        {
            return $this->getField('IS_RETURN') !== self::RETURN_NONE;
        }

        public function getSum()
        {
            return (float) $this->getField('SUM');
        }

        public function setPaid($value)
        {
            return $this->setField('PAID', $value);
        }

        public function setReturn($value)
        {
            return $this->isReturn() === ($value !== self::RETURN_NONE) ? new Result() : $this->setField('IS_RETURN', $value);
        }

        protected function onFieldModify($name, $oldValue, $value)
        {
            $result = new Result();
            if ($name === 'PAID' && $value === 'Y') {
                $this->fields['EMP_PAID_ID'] = $GLOBALS['USER']->GetID();
                $this->fields['IS_RETURN'] = self::RETURN_NONE;
            }
            if ($name === 'IS_RETURN' && $value !== self::RETURN_NONE) {
                if ($value !== self::RETURN_PS) {
                    throw new \LogicException('the buyer would be credited on the inner account');
                }
                $service = $this->getPaySystem();
                if ($service === null || !$service->isRefundable()) {
                    return $result->addError(new ResultError('not refundable'));
                }
                $refunded = $service->refund($this);
                if (!$refunded->isSuccess()) {
                    return $result->addErrors($refunded->getErrors());
                }
                if ($refunded->getOperationType() === PaySystem\ServiceResult::MONEY_LEAVING) {
                    return $this->setField('PAID', 'N');
                }
            }

            return $result;
        }
    }

    class PaymentCollection extends \ArrayIterator
    {
        private $order;

        public function __construct(array $payments, Order $order)
        {
            parent::__construct($payments);
            $this->order = $order;
        }

        public function getOrder()
        {
            return $this->order;
        }

        public function getItemById($id)
        {
            foreach ($this as $payment) {
                if ((int) $payment->getId() === (int) $id) {
                    return $payment;
                }
            }

            return null;
        }
    }

    class PropertyValue extends Internals\Entity
    {
        public function __construct($code, $value)
        {
            $this->fields = ['CODE' => $code, 'VALUE' => $value];
        }

        public function getValue()
        {
            return $this->getField('VALUE');
        }
    }

    class BasketItem extends Internals\Entity
    {
        public function __construct(array $fields)
        {
            $this->fields = $fields;
        }

        public function getFinalPrice()
        {
            return (float) $this->getField('PRICE') * (float) ($this->fields['QUANTITY'] ?? 1);
        }

        public function getPropertyCollection()
        {
            return Order::properties($this->fields['properties'] ?? []);
        }
    }

    abstract class OrderBase extends Internals\Entity
    {
    }

    class Order extends OrderBase
    {
        /** @var string[] what save() says */
        public static $fails = [];
        private $payments;
        /** Whether the order is kept as a list of its payments alone. */
        private $isList;

        public static function load($id)
        {
            if (!isset(\Bitrix\Main\Loader::$included['sale'])) {
                throw new \LogicException('the module sale is not included');
            }
            $kept = \BitrixDouble::read('orders.json')[$id] ?? null;
            if ($kept === null) {
                return null;
            }
            $order = new self();
            $order->isList = array_keys($kept) === range(0, count($kept) - 1);
            $order->fields = ($order->isList ? ['payments' => $kept] : $kept) + [
                'ID' => $id, 'LID' => 's1', 'CANCELED' => 'N', 'ACCOUNT_NUMBER' => (string) $id, 'MARKED' => 'N', 'REASON_MARKED' => null,
                'PRICE_DELIVERY' => 0.0, 'properties' => [], 'basket' => [], 'DATE_INSERT' => '2000-01-01',
            ];
            $order->payments = array_map(static function (array $fields, $index) use ($order) {
                return new Payment($fields + ['ID' => $index + 1], $order);
            }, $order->fields['payments'], array_keys($order->fields['payments']));

            return $order;
        }

        public static function properties(array $values)
        {
            return new \ArrayIterator(array_map(static function ($code, $value) {
                return new PropertyValue($code, $value);
            }, array_keys($values), $values));
        }

        public function getPaymentCollection()
        {
            return new PaymentCollection($this->payments, $this);
        }

        public function forget(Payment $deleted)
        {
            $left = array_filter($this->payments, static function (Payment $payment) use ($deleted) {
                return $payment !== $deleted;
            });
            $orders = \BitrixDouble::read('orders.json');
            $orders[$this->getId()]['payments'] = array_values(array_intersect_key($orders[$this->getId()]['payments'], $left));
            \BitrixDouble::write('orders.json', $orders);
            $this->payments = array_values($left);
        }

        public function getPropertyCollection()
        {
            return self::properties($this->fields['properties']);
        }

        public function getBasket()
        {
            return new \ArrayIterator(array_map(static function (array $fields) {
                return new BasketItem($fields);
            }, $this->fields['basket']));
        }

        public function getField($name)
        {
            return $name === 'DATE_INSERT' ? new \Bitrix\Main\Type\DateTime($this->fields[$name]) : parent::getField($name);
        }

        public function getDeliveryPrice()
        {
            return (float) $this->getField('PRICE_DELIVERY');
        }

        public function getSiteId()
        {
            return $this->getField('LID');
        }

        public function isCanceled()
        {
            return $this->getField('CANCELED') === 'Y';
        }

        public function save()
        {
            $result = new Result();
            foreach (self::$fails as $why) {
                return $result->addError(new ResultError($why));
            }
            usleep((int) (array_sum(\BitrixDouble::read('save_takes_s.json')) * 1000000));
            $orders = \BitrixDouble::read('orders.json');
            $before = $orders[$this->getId()];
            $this->fields['payments'] = array_map(static function (Payment $payment, array $kept) {
                return $payment->over($kept);
            }, $this->payments, $this->isList ? $before : $before['payments']);
            $orders[$this->getId()] = $this->isList ? $this->fields['payments'] : $this->fields;
            \BitrixDouble::write('orders.json', $orders);
            \BitrixDouble::add('saves.json', (int) $this->getId());
            foreach ($this->payments as $payment) {
                $payment->saved();
            }
            if ($this->isCanceled() && ($before['CANCELED'] ?? 'N') === 'N') {
                (new \Bitrix\Main\Event('sale', 'OnSaleOrderCanceled', ['ENTITY' => $this]))->send();
            }

            return $result;
        }
    }

    class EntityMarker
    {
        public static function addMarker(OrderBase $order, Internals\Entity $entity, Result $result)
        {
            foreach ($result->getWarnings() as $warning) {
                $kind = $entity instanceof Payment ? 'PAYMENT' : 'ORDER';
                \BitrixDouble::add('markers.json', [$kind, (int) $entity->getId(), $warning->getMessage()]);
                $order->setField('REASON_MARKED', $warning->getMessage());
            }
        }
    }

    final class BusinessValue
    {
        /** The value of this payment system; else the one that Bitrix shares between all; else the default of its description. */
        public static function get($codeKey, $consumerKey = null, $personTypeId = null, $providerInstance = null)
        {
            $systems = \BitrixDouble::read('systems.json');
            $id = substr($consumerKey, strlen(PaySystem\Service::PAY_SYSTEM_PREFIX));
            $default = (new PaySystem\Service(['ID' => $id] + $systems[$id]))->getHandlerDescription()['CODES'][$codeKey]['DEFAULT'] ?? null;
            $mapping = $systems[$id]['values'][$codeKey] ?? $systems['common'][$codeKey] ?? $default;
            if (!is_array($mapping)) {
                return $mapping;
            }
            if ($mapping['PROVIDER_KEY'] !== 'PROPERTY') {
                return $mapping['PROVIDER_VALUE'];
            }
            foreach ($personTypeId->getOrder()->getPropertyCollection() as $property) {
                if ($property->getField('CODE') === $mapping['PROVIDER_VALUE']) {
                    return $property->getValue();
                }
            }

            return null;
        }
    }
}

namespace Bitrix\Sale\PaySystem {
    use Bitrix\Main\Application;
    use Bitrix\Main\Event;
    use Bitrix\Main\Request;
    use Bitrix\Sale\BusinessValue;
    use Bitrix\Sale\Order;
    use Bitrix\Sale\Payment;
    use Bitrix\Sale\Result;
    use Bitrix\Sale\ResultError;

    interface IRefund
    {
        public function refund(Payment $payment, $refundableSum);
    }

    interface ICheckable
    {
        public function check(Payment $payment);
    }

    class ServiceResult extends \Bitrix\Main\Entity\Result
    {
        const MONEY_COMING = 'money_coming';
        const MONEY_LEAVING = 'money_leaving';
        private $psData = [];
        private $operationType;
        private $template = '';

        public function setPsData($psData)
        {
            $this->psData = $psData;
        }

        public function getPsData()
        {
            return $this->psData;
        }

        public function setOperationType($operationType)
        {
            $this->operationType = $operationType;
        }

        public function getOperationType()
        {
            return $this->operationType;
        }

        public function setTemplate($template)
        {
            $this->template = $template;
        }

        public function getTemplate()
        {
            return $this->template;
        }
    }

    class Logger
    {
        public static function addError($error)
        {
            if (!is_string($error)) {
                throw new \InvalidArgumentException('$error is a string');
            }
            \BitrixDouble::add('pay_system_log.json', $error);
        }
    }

    abstract class BaseServiceHandler
    {
        const STREAM = 1;
        const STRING = 2;
        protected $handlerType = '';
        protected $service;
        protected $extraParams = [];
        protected $initiateMode = self::STREAM;

        abstract public function initiatePay(Payment $payment, ?Request $request = null);

        abstract public function getCurrencyList();

        public function __construct($type, Service $service)
        {
            $this->handlerType = $type;
            $this->service = $service;
        }

        public function showTemplate(?Payment $payment = null, $template = '')
        {
            $result = new ServiceResult();
            $path = Application::getDocumentRoot() . Manager::getHandlerDirectories()[$this->handlerType]
                . static::getName() . '/template/' . Manager::sanitize($template) . '.php';
            $params = array_merge($this->getParamsBusValue($payment), $this->extraParams);
            if ($this->initiateMode === self::STREAM) {
                require $path;

                return $result;
            }
            ob_start();
            require $path;
            $result->setTemplate(ob_get_clean());

            return $result;
        }

        public function getParamsBusValue(?Payment $payment = null)
        {
            $params = [];
            foreach (array_keys($this->getDescription()['CODES']) as $code) {
                $params[$code] = $this->getBusinessValue($payment, $code);
            }

            return $params;
        }

        protected static function getName()
        {
            return Manager::getFolderFromClassName(get_called_class());
        }

        protected function getBusinessValue(?Payment $payment, $code)
        {
            $value = BusinessValue::get($code, $this->service->getConsumerName(), $payment);

            return is_string($value) ? trim($value) : $value;
        }

        public function getDescription()
        {
            $data = [];
            require Application::getDocumentRoot() . Manager::getHandlerDirectories()[$this->handlerType] . static::getName() . '/.description.php';

            return $data;
        }

        public function setExtraParams(array $values)
        {
            $this->extraParams = $values;
        }

        public function setInitiateMode($mode)
        {
            $this->initiateMode = $mode;
        }
    }

    abstract class ServiceHandler extends BaseServiceHandler
    {
        public static function getIndicativeFields()
        {
            return [];
        }

        public static function isMyResponse(Request $request, $paySystemId)
        {
            foreach (static::getIndicativeFields() as $key => $value) {
                if (!isset($request[$key]) || $value != $request[$key]) {
                    return false;
                }
            }

            return static::getIndicativeFields() !== [] && static::isMyResponseExtended($request, $paySystemId);
        }

        protected static function isMyResponseExtended(Request $request, $paySystemId)
        {
            return true;
        }

        abstract public function processRequest(Payment $payment, Request $request);

        public function sendResponse(ServiceResult $result, Request $request)
        {
            return '';
        }

        abstract public function getPaymentIdFromRequest(Request $request);
    }

    /** A payment system of another handler. */
    class CompatibilityHandler extends BaseServiceHandler
    {
        public function initiatePay(Payment $payment, ?Request $request = null)
        {
            return new ServiceResult();
        }

        public function getCurrencyList()
        {
            return [];
        }

        public function getDescription()
        {
            return ['CODES' => []];
        }
    }

    class Service
    {
        const PAY_SYSTEM_PREFIX = 'PAYSYSTEM_';
        private $handler;
        private $fields;

        public function __construct($fields)
        {
            list($className, $handlerType) = Manager::includeHandler($fields['ACTION_FILE']);
            $this->fields = $fields;
            $this->handler = new $className($handlerType, $this);
        }

        public function getField($name)
        {
            return $this->fields[$name];
        }

        public function getConsumerName()
        {
            return self::PAY_SYSTEM_PREFIX . $this->fields['ID'];
        }

        public function getHandlerDescription()
        {
            return $this->handler->getDescription();
        }

        public function getParamsBusValue(Payment $payment)
        {
            return $this->handler->getParamsBusValue($payment);
        }

        public function isRefundable()
        {
            return $this->handler instanceof IRefund;
        }

        public function initiatePay(Payment $payment, ?Request $request = null, $mode = BaseServiceHandler::STREAM)
        {
            $this->handler->setInitiateMode($mode);
            $result = $this->handler->initiatePay($payment, $request);
            if ($result->getPsData()) {
                $result->addErrors($payment->setFields($result->getPsData())->getErrors());
                $result->addErrors($payment->getCollection()->getOrder()->save()->getErrors());
            }

            return $result;
        }

        public function refund(Payment $payment, $refundableSum = 0)
        {
            if (!$payment->isPaid()) {
                return (new Result())->addError(new ResultError('not paid'));
            }

            return $this->handler->refund($payment, $refundableSum == 0 ? $payment->getSum() : $refundableSum);
        }

        public function check(Payment $payment)
        {
            $result = new ServiceResult();
            $order = $payment->getCollection()->getOrder();
            if ($order->isCanceled()) {
                return $result->addError(new ResultError('the order is cancelled'));
            }
            $checked = $this->handler->check($payment);
            if ($checked->isSuccess() && $checked->getPsData()) {
                $payment->setFields($checked->getPsData());
                $order->save();
            }

            return $result;
        }

        public function processRequest(Request $request)
        {
            $result = new Result();
            $paymentId = (int) $this->handler->getPaymentIdFromRequest($request);
            list($orderId) = Manager::getIdsByPayment($paymentId);
            $order = $orderId ? Order::load($orderId) : null;
            if ($order === null || $order->isCanceled()) {
                return $result->addError(new ResultError('no such order, or a cancelled one'));
            }
            $payment = $order->getPaymentCollection()->getItemById($paymentId);
            $processed = $this->handler->processRequest($payment, $request);
            if (!$processed->isSuccess() || $processed->getOperationType() !== null || $processed->getPsData()) {
                throw new \LogicException('Bitrix would mark the payment by itself, beside BitrixOrders');
            }
            $this->handler->sendResponse($processed, $request);

            return $result;
        }
    }

    final class Manager
    {
        public static function getHandlerDirectories()
        {
            return [
                'CUSTOM' => '/bitrix/php_interface/include/sale_payment/',
                'LOCAL' => '/local/php_interface/include/sale_payment/',
                'SYSTEM' => '/bitrix/modules/sale/handlers/paysystem/',
            ];
        }

        public static function getList(array $params = [])
        {
            $wanted = $params['filter']['=ACTION_FILE'] ?? null;
            $rows = [];
            foreach (\BitrixDouble::read('systems.json') as $id => $system) {
                if ($id !== 'common' && ($wanted === null || $system['ACTION_FILE'] === $wanted)) {
                    $rows[] = ['ID' => (string) $id] + $system;
                }
            }

            return new class($rows) {
                private $rows;

                public function __construct(array $rows)
                {
                    $this->rows = $rows;
                }

                public function fetch()
                {
                    return array_shift($this->rows) ?? false;
                }
            };
        }

        public static function getObjectById($id)
        {
            $system = \BitrixDouble::read('systems.json')[$id] ?? null;

            return $system === null ? null : new Service(['ID' => (string) $id] + $system);
        }

        public static function getIdsByPayment($paymentId, $registryType = \Bitrix\Sale\Registry::REGISTRY_TYPE_ORDER)
        {
            foreach (\BitrixDouble::read('orders.json') as $orderId => $order) {
                foreach ($order['payments'] ?? [] as $index => $payment) {
                    if ((int) ($payment['ID'] ?? $index + 1) === (int) $paymentId) {
                        return [(int) $orderId, (int) $paymentId];
                    }
                }
            }

            return [0, 0];
        }

        public static function searchByRequest(Request $request)
        {
            $items = self::getList();
            while ($item = $items->fetch()) {
                list($className) = self::includeHandler($item['ACTION_FILE']);
                if (is_callable([$className, 'isMyResponse']) && $className::isMyResponse($request, $item['ID'])) {
                    return $item;
                }
            }

            return false;
        }

        public static function getFolderFromClassName($className)
        {
            $parts = explode('\\', $className);

            return strtolower(self::sanitize(str_replace('Handler', '', end($parts))));
        }

        public static function sanitize($name)
        {
            return preg_replace('/[^a-z0-9._]/i', '', $name);
        }

        public static function includeHandler($actionFile): array
        {
            foreach (self::getHandlerDirectories() as $type => $path) {
                $file = Application::getDocumentRoot() . $path . self::getFolderFromClassName($actionFile) . '/handler.php';
                if (is_file($file)) {
                    require_once $file;

                    return ['Sale\Handlers\PaySystem\\' . $actionFile . 'Handler', $type];
                }
            }

            return [CompatibilityHandler::class, ''];
        }
    }
}
