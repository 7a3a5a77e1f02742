<?php

namespace Integration\PaymentService;

/**
 * What the site sets: given to a constructor, else the options of Bitrix's module onelab.kaspipay. Nothing is in the code.
 *
 *     payment_service_url              https://..., with or without /api at its end
 *     payment_service_key              the API key of this site
 *     payment_service_folder           the client's own folder, outside of what the web server shows
 *     payment_service_cache_time       seconds for which a configuration is used without asking (3600; 0: ask each time)
 *     payment_service_shops_file       the table that "payment-service shops export --format php" wrote
 *     payment_service_webhook_secret   whsec_...; two, separated by a space, while it is being changed
 *     payment_service_site             a word for this installation, when two of them sell for one shop (see BitrixPaymentId)
 *     payment_service_default_shop_id  the shop of calls that name none; without it such a call is refused
 *     payment_service_default_bin_for_every_shop   the old behaviour, by name only: one BIN when nobody knows better
 *     device_token                     the device token of that BIN
 *     payment_service_ca_file          certificates to trust for the service, if it has one of your own authority
 *     kaspi_url, kaspi_certificate, kaspi_key, kaspi_key_password, kaspi_ca_file   Kaspi's own API and our certificate for it
 */
final class SiteSettings
{
    const MODULE = 'onelab.kaspipay';
    const NAMES = [
        'payment_service_url', 'payment_service_key', 'payment_service_folder', 'payment_service_cache_time', 'payment_service_shops_file',
        'payment_service_webhook_secret', 'payment_service_site', 'payment_service_default_shop_id', 'payment_service_default_bin_for_every_shop', 'device_token',
        'payment_service_ca_file', 'kaspi_url', 'kaspi_certificate', 'kaspi_key', 'kaspi_key_password', 'kaspi_ca_file',
    ];

    private $given;

    public function __construct(array $given = [])
    {
        $this->given = $given;
    }

    public function text(string $name): string
    {
        if (isset($this->given[$name])) {
            return trim((string) $this->given[$name]);
        }

        return class_exists('Bitrix\Main\Config\Option') ? trim((string) \Bitrix\Main\Config\Option::get(self::MODULE, $name, '')) : '';
    }

    /** @throws BadRequest when it is not set */
    public function required(string $name): string
    {
        $value = $this->text($name);
        if ($value === '') {
            throw new BadRequest("The setting $name is missing: set it in the options of the module " . self::MODULE . '.');
        }

        return $value;
    }

    /**
     * Set one of the names above in the options of the module.
     *
     * @throws BadRequest for another name, without Bitrix, and for another word of an installation that has asked for payments
     */
    public static function set(string $name, string $value): void
    {
        if (!in_array($name, self::NAMES, true)) {
            throw new BadRequest('There is no such setting; the settings are ' . implode(', ', self::NAMES) . '.');
        }
        if (!class_exists('Bitrix\Main\Config\Option')) {
            throw new BadRequest('Bitrix was not found: set DOCUMENT_ROOT to the folder that its web server shows.');
        }
        $now = new self();
        if ($name === 'payment_service_site' && $value !== $now->text($name) && glob($now->folder() . '/checkout/*.lock')) {
            throw new BadRequest(
                'This installation has asked for payments already: with another word its orders would be others, and be asked for once more. '
                . 'Give the word to the other installation.'
            );
        }
        \Bitrix\Main\Config\Option::set(self::MODULE, $name, $value);
    }

    /** The client's own folder: as set, else beside the folder that the web server shows; null when nobody knows. */
    public function folder(): ?string
    {
        $folder = $this->text('payment_service_folder');
        if ($folder !== '') {
            return rtrim($folder, '/');
        }
        $root = rtrim((string) ($_SERVER['DOCUMENT_ROOT'] ?? ''), '/');

        return $root === '' ? null : dirname($root) . '/kaspi_payment_service';
    }

    /** The client of the service as this site has set it. */
    public function client(): Client
    {
        return new Client(...$this->ofClient());
    }

    /**
     * What the client is made with: address, key, options.
     *
     * @return array{0: string, 1: string|null, 2: array}
     */
    public function ofClient(): array
    {
        $options = ['folder' => $this->folder()];
        foreach (['cache_time', 'shops_file', 'default_bin_for_every_shop', 'ca_file'] as $name) {
            if ($this->text('payment_service_' . $name) !== '') {
                $options[$name] = $this->text('payment_service_' . $name);
            }
        }
        if (isset($options['default_bin_for_every_shop'])) {
            $options['default_device_token'] = $this->text('device_token');
        }

        return [$this->required('payment_service_url'), $this->text('payment_service_key') ?: null, $options];
    }
}
