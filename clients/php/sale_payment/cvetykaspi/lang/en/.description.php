<?php

$MESS['SALE_HPS_CVETYKASPI_GROUP_SELLER'] = 'Kaspi: whose money it is';
$MESS['SALE_HPS_CVETYKASPI_GROUP_PAYING'] = 'Kaspi: how the buyer pays';
$MESS['SALE_HPS_CVETYKASPI_DESCRIPTION'] = 'Payment through Kaspi to the account of the seller whose order it is. The service\'s address, key and folder are set by console.php, see docs/bitrix.md.';
$MESS['SALE_HPS_CVETYKASPI_SELLER'] = 'Rule: whose payment it is';
$MESS['SALE_HPS_CVETYKASPI_SELLER_DESC'] = 'Without a rule nothing can be paid. There is no default shop.';
$MESS['SALE_HPS_CVETYKASPI_SELLER_SHOP'] = 'Always one shop';
$MESS['SALE_HPS_CVETYKASPI_SELLER_PROPERTY'] = 'The shop is in a property of the order';
$MESS['SALE_HPS_CVETYKASPI_SELLER_XML_ID'] = 'The shop is in the XML_ID of the payment (shop-121038)';
$MESS['SALE_HPS_CVETYKASPI_SHOP'] = 'Number of the shop';
$MESS['SALE_HPS_CVETYKASPI_SHOP_DESC'] = 'For the rule "always one shop": 121038. With several such payment systems the ID of this one, a colon and the shop: 3:121038.';
$MESS['SALE_HPS_CVETYKASPI_PROPERTY'] = 'Code of the property of the order';
$MESS['SALE_HPS_CVETYKASPI_PROPERTY_DESC'] = 'For the rule "the shop is in a property of the order": it holds the number of the shop.';
$MESS['SALE_HPS_CVETYKASPI_GOODS'] = 'Code of the property of the goods in the basket that holds the number of the shop';
$MESS['SALE_HPS_CVETYKASPI_GOODS_DESC'] = 'It is checked that all goods are of one seller. A hyphen (-) says: goods carry no seller, and no order has goods of two.';
$MESS['SALE_HPS_CVETYKASPI_WAY'] = 'How the buyer pays';
$MESS['SALE_HPS_CVETYKASPI_WAY_DESC'] = 'An invoice comes to the Kaspi app on the phone; a link is opened on the phone or read as a QR code.';
$MESS['SALE_HPS_CVETYKASPI_WAY_BOTH'] = 'Invoice to the phone or link';
$MESS['SALE_HPS_CVETYKASPI_WAY_PHONE'] = 'Invoice to the phone';
$MESS['SALE_HPS_CVETYKASPI_WAY_LINK'] = 'Link and QR code';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE'] = 'Text that the buyer sees in Kaspi';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE_DESC'] = '#ORDER_NUMBER#, #ORDER_ID# and #PAYMENT_NUMBER# are replaced by the numbers.';
$MESS['SALE_HPS_CVETYKASPI_MESSAGE_DEFAULT'] = 'Order #ORDER_NUMBER#';
$MESS['SALE_HPS_CVETYKASPI_PHONE'] = 'Phone of the buyer';
$MESS['SALE_HPS_CVETYKASPI_PHONE_DESC'] = 'It fills the field on the payment page; the buyer may change it.';
